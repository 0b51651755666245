"""Run branches over any number of rows, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import count
from typing import TypeVar

import torch
from torch import Tensor

from ...fabric import Stage
from ..steps import PlainStep
from .programs import Backward, Forward, Layout
from .workspace import Workspace, workspace

__all__ = ["Tiles"]

TILE_ELEMENTS = 2**17  # rows times the widest step, for each thread: half a megabyte of float32
LEAST_ROWS = 32
# The matrix library likes multiples of 8; odd ones, as a power of two wears out few cache sets.
GRANULE = 8

Branches = tuple[tuple[PlainStep, ...], ...]
Item = TypeVar("Item")


@lru_cache(maxsize=1024)
def _outline(branches: Branches) -> tuple[int, tuple[tuple[int | None, ...], ...]]:
    """The features at the widest place, and by branch and step the number of the stage."""
    widest = max(
        width
        for branch in branches
        for step in branch
        for width in (step.in_features, step.out_features)
    )
    number = count()
    places = tuple(
        tuple(next(number) if isinstance(step, Stage) else None for step in branch)
        for branch in branches
    )
    return widest, places


class Tiles:
    """Branches with their weights, applied tile by tile.

    Args:
        branches: the steps, branch by branch.
        in_features: of the input.
        out_features: of the output.
        factors: one weight (a, d, b, c) per stage, in their order.
        by_row: whether tensors are (rows, features), each row contiguous, rather than
            (features, rows).
    """

    def __init__(
        self,
        branches: Branches,
        in_features: int,
        out_features: int,
        factors: Sequence[Tensor],
        by_row: bool,
    ) -> None:
        """See the class."""
        self._layout = partial(Layout, branches, in_features, out_features, by_row=by_row)
        self._out_features = out_features
        self._widest, self._places = _outline(branches)
        self._axis = 0 if by_row else 1
        self._flat = [factor.flatten(0, 1) for factor in factors]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Apply the branches.

        Args:
            x: the input, at least one row.
            y: the output to write to; None for a new one, by row only.
        """
        matrices = self._by_step(self._flat)
        rows = self._rows(x)
        with workspace(x, rows * self._widest) as memory:
            if y is None and rows == x.shape[0]:
                y = self._forward(x, memory).create(x, matrices)
                if y is not None:
                    return y
            if y is None:
                y = x.new_empty((x.shape[0], self._out_features))
            for tile, target in self._cut(rows, x, y):
                self._forward(tile, memory).play(tile, target, matrices)
        return y

    def backward(
        self, grad: Tensor, x: Tensor, sums: Sequence[Tensor | None], grad_x: Tensor | None
    ) -> None:
        """Send a gradient back.

        Args:
            grad: of the output.
            x: the input.
            sums: one gradient per stage to add to, None where not asked for.
            grad_x: the gradient of the input, written to, or None.
        """
        matrices = self._by_step(self._flat)
        turned = self._by_step([matrix.transpose(1, 2) for matrix in self._flat])
        totals = self._by_step([None if s is None else s.flatten(0, 1) for s in sums])
        wanted = tuple(tuple(total is not None for total in branch) for branch in totals)
        passes = grad_x is not None
        rows = self._rows(x)
        with workspace(x, rows * self._widest) as memory:
            targets = () if grad_x is None else (grad_x,)
            for flow, tile, *target in self._cut(rows, grad, x, *targets):
                layout = self._layout(rows=tile.shape[self._axis])
                program = memory.program(
                    (layout, x.dtype, wanted, passes),
                    partial(Backward, layout, wanted, passes, x, memory),
                )
                place = target[0] if target else None
                program.play(flow, tile, place, (matrices, turned), totals)

    def _forward(self, tile: Tensor, memory: Workspace) -> Forward:
        layout = self._layout(rows=tile.shape[self._axis])
        return memory.program((layout, tile.dtype), partial(Forward, layout, tile, memory))

    def _by_step(self, items: Sequence[Item]) -> list[list[Item | None]]:
        """Arrange one item per stage by branch and step, None at shuffles."""
        return [[None if i is None else items[i] for i in branch] for branch in self._places]

    def _rows(self, x: Tensor) -> int:
        """Choose the rows of a tile: equal tiles, so that none is left with a few.

        Lower precisions and other devices take all at once: sums over tiles would be rounded, and
        there is no cache to fit.
        """
        rows = x.shape[self._axis]
        if x.device.type != "cpu" or x.element_size() < 4:
            return rows
        most = max(LEAST_ROWS, torch.get_num_threads() * TILE_ELEMENTS // self._widest)
        granules = -(-rows // (-(-rows // most) * GRANULE))
        return min(rows, (granules | 1) * GRANULE)

    def _cut(self, rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Walk over tensors together, some rows at a time."""
        if tensors[0].shape[self._axis] == rows:
            return iter((tensors,))
        return zip(*(tensor.split(rows, self._axis) for tensor in tensors), strict=True)
