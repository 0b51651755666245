"""A run of steps written down once for tiles of one size, then played for every tile.

*Columns* are a tensor (features, rows of the tile). A stage leaves them as a strided view (a, b, d,
rows) of its batched product; the next stage sees that memory as it needs, as a rule without a copy.
Those views depend on nothing but the steps and the size of the tile, so a tape holds them ready,
and playing it costs the products and little else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...fabric import Shuffle, Stage
from ..steps import permutation

__all__ = ["FEW_ROWS", "Play", "Tape"]

FEW_ROWS = 16  # below, the matrix library is several times faster on rows than on columns


class Play(NamedTuple):
    """What changes from call to call.

    Attributes:
        tile: the operand that the first step reads where the caller has it, if it does.
        values: the same of the tape that recorded the values between the stages.
        matrices: per step, the weight as a batch of matrices (a * d, outputs, inputs); None at a
            shuffle.
        sums: per step, where the gradient of the weight is added up, None where nobody asked.
    """

    tile: Tensor | None
    values: Tensor | None
    matrices: Sequence[Tensor | None]
    sums: Sequence[Tensor | None]


Action = Callable[[Play], object]


class Tape:
    """The actions on one tile, in order; each method adds some and moves the columns on.

    Args:
        rows: columns of the tile, 1 or more.
        room: gives flat memory of a number of elements, valid until the next but one request.
    """

    def __init__(self, rows: int, room: Callable[[int], Tensor]) -> None:
        """See the class."""
        self.rows = rows
        self._room = room
        self._actions: list[Action] = []
        self._columns: Tensor | None = None  # None: still the caller's tile

    def play(self, play: Play) -> None:
        """Run the actions."""
        for action in self._actions:
            action(play)

    def begin(self, columns: Tensor) -> None:
        """Start with columns (a, width, d, rows) that the caller fills before each play."""
        self._columns = columns

    def start(self, width: int, features: int) -> Tensor:
        """Start with columns in memory of our own, wrapped to `width`.

        Returns:
            (features, rows), which the caller fills before each play.
        """
        columns = self._columns = self.take(width, self.rows)
        if width > features:
            surplus, first = columns[features:], columns[: width - features]
            self.do(lambda _: surplus.copy_(first))
        return columns[:features]

    def do(self, action: Action) -> None:
        """Add any action."""
        self._actions.append(action)

    def take(self, *shape: int) -> Tensor:
        """Take memory for what an action writes."""
        return self._room(math.prod(shape)).view(shape)

    def operand(self, stage: Stage, width: int) -> Tensor | None:
        """See the columns as (a * d, width, rows), None while they are the caller's tile."""
        if self._columns is None:
            return None
        shape = (stage.a, width, stage.d, self.rows)
        split = _view(self._columns, shape)
        if split is None:
            split = self.flatten().view(shape)
        split = split.transpose(1, 2)
        merged = (stage.a * stage.d, width, self.rows)
        operand = _view(split, merged)
        if operand is None:
            return self._copy(split).view(merged)
        if self.rows < FEW_ROWS and operand.stride(1) > 1:
            return self._pack(operand)
        return operand

    def multiply(
        self, place: int, stage: Stage, operand: Tensor | None, outputs: int, by_row: bool
    ) -> Tensor:
        """Multiply block by block.

        Args:
            place: of the matrices (outputs, width) in `Play`.
            stage: gives a and d.
            operand: (a * d, width, rows), None for the caller's tile.
            outputs: features of a block that come out.
            by_row: whether they, not the rows, are to be contiguous.

        Returns:
            The product (a * d, outputs, rows).
        """
        groups = stage.a * stage.d
        if by_row or self.rows < FEW_ROWS:
            out = self.take(groups, self.rows, outputs)
            turned = None if operand is None else operand.transpose(1, 2)
            product = out.transpose(1, 2)

            def act(play: Play) -> None:
                left = _given(play.tile).transpose(1, 2) if turned is None else turned
                torch.bmm(left, _given(play.matrices[place]).transpose(1, 2), out=out)

        else:
            product = self.take(groups, outputs, self.rows)

            def act(play: Play) -> None:
                right = _given(play.tile) if operand is None else operand
                torch.bmm(_given(play.matrices[place]), right, out=product)

        self.do(act)
        self._columns = product.view(stage.a, stage.d, outputs, self.rows).transpose(1, 2)
        return product

    def accumulate(self, place: int, operand: Tensor | None, values: Tensor | None) -> None:
        """Add the gradient of a weight.

        Args:
            place: of the sum in `Play`.
            operand: gradient of the stage's output, None for the caller's tile.
            values: input of the stage, (a * d, inputs, rows), None for `Play.values`.
        """

        def act(play: Play) -> None:
            left = _given(play.tile) if operand is None else operand
            right = _given(play.values) if values is None else values
            _given(play.sums[place]).baddbmm_(left, right.transpose(1, 2))

        self.do(act)

    def permute(self, shuffle: Shuffle, inverse: bool) -> None:
        """Shuffle the features: runs of memory, as the rows are the last axis."""
        flat = self.flatten()
        out = self._columns = self.take(shuffle.size, self.rows)
        indices = permutation(shuffle, flat.device, inverse)
        self.do(lambda _: torch.index_select(flat, 0, indices, out=out))

    def flatten(self) -> Tensor:
        """See the columns as contiguous (features, rows); a copy where they are strided."""
        columns = _given(self._columns)
        if not columns.is_contiguous():
            columns = self._copy(columns)
        return columns.view(columns.numel() // self.rows, self.rows)

    def _pack(self, operand: Tensor) -> Tensor:
        """Make the width contiguous: the library copies other operands itself, and slowly."""
        groups, width, rows = operand.shape
        packed = self.take(groups, rows, width).transpose(1, 2)
        self.do(lambda _: packed.copy_(operand))
        return packed

    def _copy(self, columns: Tensor) -> Tensor:
        out = self._columns = self.take(*columns.shape)
        self.do(lambda _: out.copy_(columns))
        return out


def _given(x: Tensor | None) -> Tensor:
    if x is None:
        raise RuntimeError("A tape was written for a tile of another kind.")
    return x


def _view(x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """See x in another shape where its strides allow that, else None."""
    try:
        return x.view(shape)
    except RuntimeError:
        return None
