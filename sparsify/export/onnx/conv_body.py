"""The function body of a convolution's fabric in standard ONNX operators.

A stage is one grouped Conv over its a * d blocks of channels. With d > 1 the channels of a block
lie d apart, so that they are brought together before it and spread after it; whole images move,
not single numbers. A graph stage is one Conv with the dense matrix that it is a part of. Of a
transposed convolution the stage with the taps is a ConvTranspose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...native.description import Description
from ...ops.window import Window
from ...steps import GraphStage, Step, Weighted
from .graph import GraphWriter
from .parts import write_fold, write_graph_weight, write_shuffle, write_sum, write_wrap

if TYPE_CHECKING:
    from ...fabric import Branch, Fabric

__all__ = ["spatial_step", "window_attributes", "write_fabric_conv"]


def write_fabric_conv(
    write: GraphWriter, fabric: Fabric, window: Window, x: str, factors: Iterator[str]
) -> str:
    """Write the nodes of a fabric over the channels of an image.

    Args:
        write: where the nodes go.
        fabric: what to compute; at most one stage of each branch has a kernel.
        window: stride, zero padding and dilation of the stages with a kernel; where there is none
            (a 1 x 1 convolution), of the first stage of each branch, of the last if transposed.
        x: the input (N, in_features, *spatial). Tables of indices are read from the input of
            their own name.
        factors: names of the weights, of `stage.shape`, in the order of `fabric.stages`.

    Returns:
        The name of the output (N, out_features, *spatial).
    """
    tables = Description(fabric)
    branches = [
        _branch(write, tables, fabric, branch, window, x, factors) for branch in fabric.branches
    ]
    return write_sum(write, branches)


def window_attributes(window: Window) -> dict[str, list[int]]:
    """A window in the words of ONNX's Conv."""
    attributes = {
        "strides": list(window.stride),
        "pads": [*window.padding, *window.padding],
        "dilations": list(window.dilation),
    }
    if window.transposed:
        attributes["output_padding"] = list(window.output_padding)
    return attributes


def spatial_step(branch: Sequence[Step], window: Window) -> int:
    """Which step of a branch the window applies to."""
    stages = [i for i, step in enumerate(branch) if isinstance(step, Weighted)]
    if window.transposed:
        stages.reverse()
    return next((i for i in stages if getattr(branch[i], "kernel", ())), stages[0])


def _branch(
    write: GraphWriter,
    tables: Description,
    fabric: Fabric,
    branch: Branch,
    window: Window,
    x: str,
    factors: Iterator[str],
) -> str:
    value = write_wrap(write, x, fabric.in_features, branch[0].in_features, 1)
    spatial = spatial_step(branch, window)
    ones = (1,) * len(window.stride)
    plain = Window(ones, (0,) * len(ones), ones)
    for position, step in enumerate(branch):
        if isinstance(step, Weighted):
            own = window if position == spatial else plain
            value = _stage(write, tables, step, own, value, next(factors))
        else:
            value = write_shuffle(write, tables, step, value, 1)
    return write_fold(write, value, branch[-1].out_features, fabric.out_features, 1)


def _stage(
    write: GraphWriter,
    tables: Description,
    stage: Weighted,
    window: Window,
    value: str,
    factor: str,
) -> str:
    rank = len(window.stride)
    kernel = stage.kernel or (1,) * rank
    attributes: dict[str, Any] = {"kernel_shape": kernel, **window_attributes(window)}
    op = "ConvTranspose" if window.transposed else "Conv"
    if isinstance(stage, GraphStage):
        weight = write_graph_weight(write, tables, stage, factor, kernel)
        if window.transposed:
            weight = write.transpose(weight, 1, 0, *range(2, 2 + rank))
        return str(write(op, value, weight, **attributes))
    groups = stage.a * stage.d
    if window.transposed:
        weight = write.reshape(factor, [groups, stage.b, stage.c, *kernel])
        weight = write.transpose(weight, 0, 2, 1, *range(3, 3 + rank))
        weight = write.reshape(weight, [groups * stage.c, stage.b, *kernel])
    else:
        weight = write.reshape(factor, [groups * stage.b, stage.c, *kernel])
    value = _swap(write, value, (stage.a, stage.c, stage.d), rank)
    value = write(op, value, weight, group=groups, **attributes)
    return _swap(write, value, (stage.a, stage.d, stage.b), rank)


def _swap(write: GraphWriter, value: str, channels: tuple[int, int, int], rank: int) -> str:
    """Transpose the channels, seen as (a, rows, columns), in their last two axes."""
    outer, rows, columns = channels
    if rows == 1 or columns == 1:
        return value
    batch = write("Shape", value, start=0, end=1)
    image = write("Shape", value, start=2)
    grid = write("Concat", batch, write.constant(channels), image, axis=0)
    flat = write("Concat", batch, write.constant([outer * rows * columns]), image, axis=0)
    value = write("Reshape", value, grid, allowzero=1)
    value = write.transpose(value, 0, 1, 3, 2, *range(4, 4 + rank))
    return str(write("Reshape", value, flat, allowzero=1))
