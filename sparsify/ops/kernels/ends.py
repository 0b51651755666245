"""The two ends of a tape: how a tile in the caller's memory becomes columns, and columns a result.

The caller has rows, (rows, features) with each row contiguous, or an image, (channels, positions),
which is columns already and serves as an operand where it lies. Of rows, each block is brought
together, (a * d, rows, block); where its features lie apart (d > 1) it is first transposed within
each row, in cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ...fabric import Stage
from ..steps import PlainStep
from .tape import Tape
from .transpose import transpose_blocks

__all__ = ["Entry", "Exit", "entry", "exit_columns", "exit_rows"]

Entry = Callable[[Tensor], Tensor | None]


class Exit(NamedTuple):
    """How a result leaves.

    Attributes:
        deliver: stores the result in a tensor, or adds it where the flag says so.
        create: makes a new tensor (rows, features) of it, where that saves a copy.
    """

    deliver: Callable[[Tensor, bool], None]
    create: Callable[[], Tensor] | None = None


def entry(tape: Tape, step: PlainStep, features: int, outputs: bool, by_row: bool) -> Entry:
    """Start a tape with the caller's tile, wrapped to the width of a step.

    Args:
        tape: a new one.
        step: the step at this end.
        features: of the tile.
        outputs: whether the tile has the step's outputs (gradients) rather than its inputs.
        by_row: whether tiles are (rows, features) rather than (features, rows).

    Returns:
        What to call with the tile before playing; gives the operand (a * d, width, rows) of the
        first product where that reads the caller's memory.
    """
    width = step.out_features if outputs else step.in_features
    if isinstance(step, Stage) and width == features:
        block = step.b if outputs else step.c
        if by_row:
            return _pack(tape, step, block)
        if step.a == 1 or step.d == 1:
            return _read_columns(tape, step, block)
    columns = tape.start(width, features)

    def copy(tile: Tensor) -> None:
        columns.copy_(tile.t() if by_row else tile)

    return copy


def _read_columns(tape: Tape, stage: Stage, block: int) -> Entry:
    group_step, width_step = (1, stage.d) if stage.a == 1 else (block, 1)

    def read(tile: Tensor) -> Tensor:
        step, row_step = tile.stride()
        shape = (stage.a * stage.d, block, tape.rows)
        return tile.as_strided(shape, (group_step * step, width_step * step, row_step))

    return read


def _pack(tape: Tape, stage: Stage, block: int) -> Entry:
    """Bring the rows of each block together: (a * d, rows, block)."""
    a, d, rows = stage.a, stage.d, tape.rows
    packed = tape.take(a * d, rows, block)
    tape.begin(packed.view(a, d, rows, block).permute(0, 3, 1, 2))
    by_row = packed.transpose(0, 1)

    def pack(tile: Tensor) -> None:
        if d > 1:
            tile = transpose_blocks(tile.contiguous(), a, block, d)
        by_row.copy_(tile.unflatten(1, (a * d, block)))

    return pack


def exit_columns(tape: Tape, width: int, by_row: bool) -> Exit:
    """End a tape with columns folded to `width`."""
    flat = tape.flatten()
    surplus = flat.shape[0] - width
    if surplus:
        first, last = flat[:surplus], flat[width:]
        tape.do(lambda _: first.add_(last))
    result = flat[:width].t() if by_row else flat[:width]
    return Exit(lambda target, adds: _store(target, result, adds))


def exit_rows(tape: Tape, stage: Stage, product: Tensor, width: int) -> Exit:
    """End a tape with rows folded to `width`.

    Args:
        tape: the tape.
        stage: the last one; gives a and d.
        product: its product, (a * d, outputs, rows), with the outputs contiguous.
        width: features wanted.
    """
    a, d = stage.a, stage.d
    groups, outputs, rows = product.shape
    wide = groups * outputs
    runs = product.permute(2, 0, 1)
    if d == 1 and wide == width:
        return Exit(lambda target, adds: _store(target.view(runs.shape), runs, adds))
    packed = tape.take(rows, wide)
    tape.do(lambda _: packed.view(runs.shape).copy_(runs))

    def create() -> Tensor:
        return packed if d == 1 else transpose_blocks(packed, a, d, outputs)

    is_new = d > 1 and wide == width
    return Exit(lambda target, adds: _fold(target, create(), adds), create if is_new else None)


def _fold(target: Tensor, rows: Tensor, adds: bool) -> None:
    """Store rows, the features beyond the target's width added to the first."""
    width = target.shape[1]
    _store(target, rows[:, :width], adds)
    if rows.shape[1] > width:
        target[:, : rows.shape[1] - width].add_(rows[:, width:])


def _store(target: Tensor, result: Tensor, adds: bool) -> None:
    if adds:
        target.add_(result)
    else:
        target.copy_(result)
