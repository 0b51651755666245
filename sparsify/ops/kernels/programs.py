"""The tapes of all branches: what the portable kernel does with one tile, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, cycle
from typing import NamedTuple

from torch import Tensor

from ...fabric import Shuffle, Stage
from ..steps import PlainStep
from .ends import Entry, Exit, entry, exit_columns, exit_rows
from .tape import Play, Tape
from .workspace import Workspace

__all__ = ["Backward", "Forward", "Layout", "Weights"]

# Numbers of buffers: two that the actions of a tape use in turn, then one for each value that the
# backward must keep.
TURNS, KEPT = (0, 1), 2

Weights = Sequence[Sequence[Tensor | None]]  # (a * d, b, c) by branch and step, None at a shuffle


class Layout(NamedTuple):
    """What a program depends on, besides the dtype.

    Attributes:
        branches: the steps, branch by branch.
        in_features: of the input.
        out_features: of the output.
        rows: columns of a tile.
        by_row: whether the caller's tiles are (rows, features) rather than (features, rows).
    """

    branches: tuple[tuple[PlainStep, ...], ...]
    in_features: int
    out_features: int
    rows: int
    by_row: bool


class _Program:
    """What both directions share."""

    def __init__(self, layout: Layout, like: Tensor, memory: Workspace) -> None:
        self._layout = layout
        self._like = like.new_empty(0)  # not the caller's tensor, which would live on with us
        self._memory = memory

    def _tape(self, numbers: Iterator[int]) -> Tape:
        like, memory = self._like, self._memory
        return Tape(self._layout.rows, lambda size: memory.buffer(like, next(numbers), size))

    def _ascend(self, tape: Tape, branch: Sequence[PlainStep]) -> list[Tensor | None]:
        """Apply steps that are not at the end of a branch; return the operand of each."""
        operands: list[Tensor | None] = []
        for place, step in enumerate(branch):
            if isinstance(step, Shuffle):
                tape.permute(step, inverse=False)
                operands.append(None)
            else:
                operands.append(tape.operand(step, step.c))
                tape.multiply(place, step, operands[-1], step.b, by_row=False)
        return operands

    def _last(
        self, tape: Tape, place: int, stage: Stage, operand: Tensor | None, sizes: tuple[int, int]
    ) -> Exit:
        """Apply the last stage of a direction; sizes are outputs of a block and features wanted."""
        outputs, width = sizes
        by_row = self._layout.by_row
        product = tape.multiply(place, stage, operand, outputs, by_row)
        if by_row:
            return exit_rows(tape, stage, product, width)
        return exit_columns(tape, width, by_row=False)


class Forward(_Program):
    """Apply all branches to a tile of the input, and add them up."""

    def __init__(self, layout: Layout, like: Tensor, memory: Workspace) -> None:
        """Write the tapes."""
        super().__init__(layout, like, memory)
        self._tracks = [self._track(branch) for branch in layout.branches]

    def _track(self, branch: Sequence[PlainStep]) -> tuple[Tape, Entry, Exit]:
        layout = self._layout
        tape = self._tape(cycle(TURNS))
        enter = entry(tape, branch[0], layout.in_features, False, layout.by_row)
        self._ascend(tape, branch[:-1])
        last, step = len(branch) - 1, branch[-1]
        if isinstance(step, Stage):
            sizes = (step.b, layout.out_features)
            leave = self._last(tape, last, step, tape.operand(step, step.c), sizes)
        else:
            tape.permute(step, inverse=False)
            leave = exit_columns(tape, layout.out_features, layout.by_row)
        return tape, enter, leave

    def play(self, tile: Tensor, target: Tensor, matrices: Weights) -> None:
        """Run on a tile.

        Args:
            tile: the input.
            target: the output, written to.
            matrices: the weights.
        """
        for place, (tape, enter, leave) in enumerate(self._tracks):
            tape.play(Play(enter(tile), None, matrices[place], ()))
            leave.deliver(target, place > 0)

    def create(self, tile: Tensor, matrices: Weights) -> Tensor | None:
        """Run on a tile and return a new output, or None where `play` must store it."""
        tape, enter, leave = self._tracks[0]
        if len(self._tracks) > 1 or leave.create is None:
            return None
        tape.play(Play(enter(tile), None, matrices[0], ()))
        return leave.create()


class Backward(_Program):
    """Compute the values between the stages again, then send a gradient back through them.

    Args:
        layout: as in the forward.
        wanted: by branch and step, whether the gradient of the weight is asked for.
        passes: whether the gradient of the input is asked for.
        like: gives dtype and device.
        memory: where the values go.
    """

    def __init__(
        self,
        layout: Layout,
        wanted: Sequence[Sequence[bool]],
        passes: bool,
        like: Tensor,
        memory: Workspace,
    ) -> None:
        """Write the tapes."""
        super().__init__(layout, like, memory)
        self._passes = passes
        self._tracks = [
            self._pair(branch, asked) if passes or any(asked) else None
            for branch, asked in zip(layout.branches, wanted, strict=True)
        ]

    def _pair(
        self, branch: Sequence[PlainStep], asked: Sequence[bool]
    ) -> tuple[tuple[Tape, Entry] | None, tuple[Tape, Entry, Exit | None]]:
        """Write the tape that records values, unless nobody needs them, and the one back."""
        places = [place for place, need in enumerate(asked) if need]
        if not places:
            return None, self._descend(branch, asked, [], 0)
        layout = self._layout
        tape = self._tape(count(KEPT))
        enter = entry(tape, branch[0], layout.in_features, False, layout.by_row)
        operands = self._ascend(tape, branch[: places[-1]])
        step = branch[places[-1]]
        operands.append(tape.operand(step, step.c) if isinstance(step, Stage) else None)
        stop = 0 if self._passes else places[0] + 1
        return (tape, enter), self._descend(branch, asked, operands, stop)

    def _descend(
        self,
        branch: Sequence[PlainStep],
        asked: Sequence[bool],
        operands: Sequence[Tensor | None],
        stop: int,
    ) -> tuple[Tape, Entry, Exit | None]:
        """Send the gradient back through the steps down to `stop`."""
        layout = self._layout
        tape = self._tape(cycle(TURNS))
        enter = entry(tape, branch[-1], layout.out_features, True, layout.by_row)
        for place, step in reversed(list(enumerate(branch))):
            if isinstance(step, Shuffle):
                tape.permute(step, inverse=True)
                continue
            operand = tape.operand(step, step.b)
            if asked[place]:
                tape.accumulate(place, operand, operands[place])
            if place < stop:
                return tape, enter, None
            if place == 0:
                sizes = (step.c, layout.in_features)
                return tape, enter, self._last(tape, 0, step, operand, sizes)
            tape.multiply(place, step, operand, step.c, by_row=False)
        return tape, enter, exit_columns(tape, layout.in_features, layout.by_row)

    def play(
        self,
        grad: Tensor,
        tile: Tensor,
        target: Tensor | None,
        matrices: tuple[Weights, Weights],
        sums: Sequence[Sequence[Tensor | None]],
    ) -> None:
        """Run on a tile.

        Args:
            grad: the gradient of the output.
            tile: the input.
            target: the gradient of the input, written to.
            matrices: the weights, and the same with each matrix transposed.
            sums: by branch and step, what the gradients of the weights add to.
        """
        for place, tracks in enumerate(self._tracks):
            if tracks is None:
                continue
            record, (tape, enter, leave) = tracks
            values = None
            if record is not None:
                recorder, enter_values = record
                values = enter_values(tile)
                recorder.play(Play(values, None, matrices[0][place], ()))
            tape.play(Play(enter(grad), values, matrices[1][place], sums[place]))
            if target is not None and leave is not None:
                leave.deliver(target, place > 0)
