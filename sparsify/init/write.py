"""Whole values into parameters of which this process may hold a part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["is_distributed", "write"]


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor: sharded over ranks, or replicated on them.

    Example:
        >>> is_distributed(torch.zeros(2))
        False
    """
    return hasattr(tensor, "placements")  # torch.distributed.tensor is slow to import


@torch.no_grad()
def write(parameter: Tensor, value: Tensor) -> None:
    """Copy a value into a parameter; of a sharded one, the part that is here.

    Args:
        parameter: written to, without communication.
        value: whole, of the parameter's global shape, the same on every rank.

    Example:
        >>> write(weight := torch.empty(2), torch.ones(2))
        >>> weight
        tensor([1., 1.])
    """
    if not is_distributed(parameter):
        parameter.copy_(value)
        return
    from torch.distributed.tensor import DTensor, Replicate

    target: Any = parameter
    mesh = target.device_mesh
    whole = DTensor.from_local(
        value.to(target.to_local()), mesh, [Replicate()] * mesh.ndim, run_check=False
    )
    target.to_local().copy_(whole.redistribute(mesh, target.placements).to_local())
