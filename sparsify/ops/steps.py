"""Moves along a cascade that every kernel shares: linking weights, wrapping, folding, shuffling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..fabric import Fabric, Shuffle, Stage, Step, Weighted

__all__ = ["Gradients", "PlainStep", "fold", "link", "permutation", "plain_branches", "wrap"]

PlainStep = Stage | Shuffle
"""Steps that are blocks or no weights at all: all but graph stages."""

Gradients = list[Tensor | None]  # of x, then of each factor; None where nobody asked


def link(
    fabric: Fabric, factors: Sequence[Tensor]
) -> Iterator[tuple[tuple[Step, ...], list[Tensor]]]:
    """Walk over the branches, each with one tensor per step.

    Args:
        fabric: the branches to walk over.
        factors: the weights, in the order of `fabric.stages`.

    Returns:
        Pairs of a branch and its tensors; at a shuffle stands a placeholder that nobody reads.
    """
    remaining = iter(factors)
    for branch in fabric.branches:
        yield (
            branch,
            [next(remaining) if isinstance(step, Weighted) else factors[0] for step in branch],
        )


def plain_branches(fabric: Fabric) -> tuple[tuple[PlainStep, ...], ...]:
    """The branches of a fabric that is known to have no graph stage."""
    return cast("tuple[tuple[PlainStep, ...], ...]", fabric.branches)


def wrap(x: Tensor, width: int) -> Tensor:
    """Read the first channels (axis 1) once more until there are `width`; fold is the transpose."""
    surplus = width - x.shape[1]
    return torch.cat((x, x.narrow(1, 0, surplus)), 1) if surplus else x


def fold(y: Tensor, width: int) -> Tensor:
    """Add the channels beyond `width` (axis 1) to the first ones; wrap is the transpose."""
    surplus = y.shape[1] - width
    if not surplus:
        return y
    return torch.cat((y[:, :surplus] + y[:, width:], y[:, surplus:width]), 1)


def permutation(shuffle: Shuffle, device: torch.device, inverse: bool = False) -> Tensor:
    """The input position that each output (inverse: the output that each input) of a shuffle meets.

    Args:
        shuffle: the step.
        device: where the indices are wanted.
        inverse: undo the shuffle instead.

    Returns:
        int64 indices, (size,).
    """
    return torch.from_numpy(_indices(shuffle, inverse)).to(device)


@lru_cache(maxsize=1024)
def _indices(shuffle: Shuffle, inverse: bool) -> npt.NDArray[np.int64]:
    indices = shuffle.permutation()
    return np.argsort(indices) if inverse else indices
