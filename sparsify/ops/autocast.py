"""Autocast: the operators compute in the lower precision that the user chose, as Linear does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .schema import LIBRARY

__all__: list[str] = []


def _rule(name: str, device: str) -> Callable[..., Tensor]:
    op = getattr(torch.ops.sparsify, name).default

    def rule(x: Tensor, factors: list[Tensor], *rest: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(device)
        lower = [_cast(tensor, dtype) for tensor in (x, *factors)]
        rest = tuple(_cast(one, dtype) if isinstance(one, Tensor) else one for one in rest)
        with torch.autocast(device, enabled=False):
            y: Tensor = op(lower[0], lower[1:], *rest)
        return y

    return rule


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast as torch's own autocast does: double precision is left alone."""
    return x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x


for _device, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    for _name in ("fabric", "fabric_conv"):
        LIBRARY.impl(_name, _rule(_name, _device), _key)
