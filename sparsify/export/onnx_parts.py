"""What the function bodies of linear and convolution fabrics share: wrap, fold, shuffles, sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .onnx_graph import GraphWriter

if TYPE_CHECKING:
    from ..steps import Shuffle

__all__ = ["write_fold", "write_shuffle", "write_sum", "write_wrap"]


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


def write_shuffle(write: GraphWriter, shuffle: Shuffle, value: str, axis: int) -> str:
    """Permute the features of an axis."""
    order = write.constant(shuffle.permutation().tolist())
    return str(write("Gather", value, order, axis=axis))


def write_sum(write: GraphWriter, values: Sequence[str]) -> str:
    """Add values of one shape."""
    total, *others = values
    for other in others:
        total = str(write("Add", total, other))
    return total
