"""The function body of a fabric in standard ONNX operators, so that any runtime can run it.

Rows are written (M, n) here: all leading axes of the input in one. A stage is one batched MatMul
over its g = a * d blocks, (g, M, c) x (g, c, b). What costs time is bringing its operands into that
order, so every move is one that runtimes do by copying runs of memory: a transposition of two
adjacent groups of axes. A full axis reversal in one Transpose is two to three times slower than
the same in two steps (measured in onnxruntime), and a Reshape keeps optimizers from joining them.
A graph stage is one MatMul with the dense matrix that it is a part of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...native.description import Description
from ...steps import GraphStage, Shuffle, Stage
from .graph import GraphWriter
from .parts import write_fold, write_graph_weight, write_shuffle, write_sum, write_wrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...fabric import Branch, Fabric

__all__ = ["write_fabric"]


@dataclass(frozen=True)
class _Blocks:
    """A value (blocks, M, size) whose features are in the order (block, position)."""

    value: str
    blocks: int
    size: int


def write_fabric(write: GraphWriter, fabric: Fabric, x: str, factors: Iterator[str]) -> str:
    """Write the nodes of a fabric over the last axis of a value.

    Args:
        write: where the nodes go.
        fabric: what to compute.
        x: the input (*lead, in_features), any number of leading axes. Tables of indices are read
            from the input of their own name.
        factors: names of the weights, of `stage.shape`, in the order of `fabric.stages`.

    Returns:
        The name of the output (*lead, out_features).
    """
    tables = Description(fabric)
    branches = [_branch(write, tables, fabric, branch, x, factors) for branch in fabric.branches]
    total = write_sum(write, branches)
    lead = write("Shape", x, start=0, end=-1)
    shape = write("Concat", lead, write.constant([fabric.out_features]), axis=0)
    return str(write("Reshape", total, shape, allowzero=1))


def _branch(
    write: GraphWriter,
    tables: Description,
    fabric: Fabric,
    branch: Branch,
    x: str,
    factors: Iterator[str],
) -> str:
    """One cascade with its wrap and fold: the name of (M, out_features)."""
    wide = branch[0].in_features
    # A name stands for rows: whatever axes it has, it is (M, n) in memory.
    value: str | _Blocks = write_wrap(write, x, fabric.in_features, wide, -1)
    for step in branch:
        if isinstance(step, Stage):
            value = _stage(write, step, value, next(factors))
        elif isinstance(step, GraphStage):
            value = _graph(write, tables, step, _rows(write, value), next(factors))
        else:
            value = _shuffle(write, tables, step, _rows(write, value))
    wide = branch[-1].out_features
    rows = write.reshape(_rows(write, value), [-1, wide])
    return write_fold(write, rows, wide, fabric.out_features, 1)


def _shuffle(write: GraphWriter, tables: Description, step: Shuffle, rows: str) -> str:
    if step.stride is None:
        return write_shuffle(write, tables, step, write.reshape(rows, [-1, step.size]), 1)
    grid = write.reshape(rows, [-1, step.size // step.stride, step.stride])
    return write.transpose(grid, 0, 2, 1)


def _graph(
    write: GraphWriter, tables: Description, stage: GraphStage, rows: str, factor: str
) -> str:
    weight = write.transpose(write_graph_weight(write, tables, stage, factor, ()), 1, 0)
    return str(write("MatMul", write.reshape(rows, [-1, stage.in_features]), weight))


def _stage(write: GraphWriter, stage: Stage, value: str | _Blocks, factor: str) -> str | _Blocks:
    if stage.a == stage.d == 1:
        weight = write.transpose(write.reshape(factor, [stage.b, stage.c]), 1, 0)
        rows = write.reshape(_rows(write, value), [-1, stage.c])
        return str(write("MatMul", rows, weight))
    blocks = stage.a * stage.d
    weight = write.transpose(write.reshape(factor, [blocks, stage.b, stage.c]), 0, 2, 1)
    product = str(write("MatMul", _enter(write, stage, value), weight))  # (blocks, M, b)
    if stage.d == 1:
        return _Blocks(product, stage.a, stage.b)
    if stage.a == 1:
        return write.transpose(product, 1, 2, 0)
    rows = write.reshape(write.transpose(product, 1, 0, 2), [-1, stage.d, stage.b])
    return write.transpose(rows, 0, 2, 1)


def _enter(write: GraphWriter, stage: Stage, value: str | _Blocks) -> str:
    """Bring features into the order (a * d, M, c) of a stage."""
    if stage.d == 1:
        rows = write.reshape(_rows(write, value), [-1, stage.a, stage.c])
        return write.transpose(rows, 1, 0, 2)
    if stage.a > 1:
        rows = write.reshape(_rows(write, value), [-1, stage.c, stage.d])
        grid = write.reshape(write.transpose(rows, 0, 2, 1), [-1, stage.a * stage.d, stage.c])
        return write.transpose(grid, 1, 0, 2)
    if isinstance(value, _Blocks) and (value.blocks, value.size) == (stage.c, stage.d):
        flat = write.reshape(value.value, [stage.c, -1])  # (c, M * d)
        grid = write.reshape(write.transpose(flat, 1, 0), [-1, stage.d, stage.c])  # (M, d, c)
        return write.transpose(grid, 1, 0, 2)
    rows = write.reshape(_rows(write, value), [-1, stage.c, stage.d])
    return write.transpose(rows, 2, 0, 1)


def _rows(write: GraphWriter, value: str | _Blocks) -> str:
    return write.transpose(value.value, 1, 0, 2) if isinstance(value, _Blocks) else value
