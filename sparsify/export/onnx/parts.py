"""What the bodies of linear and convolution fabrics share: wrap, fold, shuffles, graphs, sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .graph import GraphWriter
from .tables import read_table

if TYPE_CHECKING:
    from ...native.description import Description
    from ...steps import GraphStage, Shuffle

__all__ = ["write_fold", "write_graph_weight", "write_shuffle", "write_sum", "write_wrap"]


def write_wrap(write: GraphWriter, value: str, width: int, wide: int, axis: int) -> str:
    """Widen an axis from `width` to `wide` features: the first ones come once more at the end."""
    if wide == width:
        return value
    start, end, axes = (write.constant([number]) for number in (0, wide - width, axis))
    return str(write("Concat", value, write("Slice", value, start, end, axes), axis=axis))


def write_fold(write: GraphWriter, value: str, wide: int, width: int, axis: int) -> str:
    """Narrow an axis from `wide` to `width` features: the last ones are added to the first."""
    surplus = wide - width
    if not surplus:
        return value
    sizes = write.constant([surplus, width - surplus, surplus])
    first, rest, last = write("Split", value, sizes, outputs=3, axis=axis)
    return str(write("Concat", write("Add", first, last), rest, axis=axis))


def write_shuffle(
    write: GraphWriter, tables: Description, shuffle: Shuffle, value: str, axis: int
) -> str:
    """Permute the features of an axis."""
    if shuffle.stride is None:
        order = read_table(write, tables, shuffle)
    else:
        grid = write.range(0, shuffle.size, 1)
        grid = write.reshape(grid, [shuffle.size // shuffle.stride, shuffle.stride])
        order = write.reshape(write.transpose(grid, 1, 0), [-1])
    return str(write("Gather", value, order, axis=axis))


def write_graph_weight(
    write: GraphWriter,
    tables: Description,
    stage: GraphStage,
    factor: str,
    kernel: Sequence[int],
) -> str:
    """Put the weights of a graph stage at their places in a dense matrix of zeros.

    Nothing in it depends on the input of the model. With its optimizations on, as they are by
    default, onnxruntime (1.20 and 1.31 tried) folds all of it into one constant at load, so that a
    graph stage then takes the time and the memory of its dense matrix.

    Args:
        write: where the nodes go.
        tables: where its neighbours lie.
        stage: the stage.
        factor: the name of its weight, (out, degree, *stage.kernel).
        kernel: spatial axes of the result; with as many taps as those of the stage.

    Returns:
        The name of (out, in, *kernel), of the weight's type.
    """
    rows, taps = stage.out_features, stage.taps
    edges = write.constant([rows, stage.degree, taps])
    places = write.reshape(read_table(write, tables, stage), [rows, stage.degree, 1])
    shape = write.constant([rows, stage.in_features, taps])
    zeros = write("CastLike", write("ConstantOfShape", shape), factor)
    weights = write("Reshape", factor, edges)
    dense = write("ScatterElements", zeros, write("Expand", places, edges), weights, axis=1)
    return write.reshape(dense, [rows, stage.in_features, *kernel])


def write_sum(write: GraphWriter, values: Sequence[str]) -> str:
    """Add values of one shape."""
    total, *others = values
    for other in others:
        total = str(write("Add", total, other))
    return total
