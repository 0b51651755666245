"""The operators as functions, the form in which layers and users call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fabric import Fabric
from . import direct
from .sharding import meet_dtensors
from .window import Window

__all__ = ["convolve", "fabric_conv", "fabric_linear"]

Sizes = int | Sequence[int]


def fabric_linear(
    x: Tensor, factors: Sequence[Tensor], fabric: Fabric | str, bias: Tensor | None = None
) -> Tensor:
    """Apply a fabric to the last axis of x, in place of `torch.nn.functional.linear`.

    Args:
        x: (*lead, in_features), any strides, any number of leading axes, no rows included.
        factors: one weight per stage, of `stage.shape`, in the order of `fabric.stages`; of the
            dtype and device of x.
        fabric: what to apply, or its JSON text, which a caller who calls often keeps.
        bias: (out_features,), added to each output; of the same dtype and device.

    Returns:
        (*lead, out_features).

    Raises:
        OperandError: x, a factor or the bias does not fit.

    Example:
        >>> fabric = Fabric.from_json('{"in":4,"out":2,"branches":[[[1,2,4,1]]]}')
        >>> fabric_linear(torch.ones(3, 4), [torch.ones(1, 1, 2, 4)], fabric)[0].tolist()
        [4.0, 4.0]

    Reference:
        ClosNets, arXiv 1802.03885.
    """
    text = fabric if isinstance(fabric, str) else fabric.to_json()
    y: Tensor | None = direct.linear(x, factors, text, bias)
    if y is None:
        meet_dtensors()
        y = torch.ops.sparsify.fabric(x, list(factors), text, bias)
    return y


def fabric_conv(
    x: Tensor,
    factors: Sequence[Tensor],
    fabric: Fabric | str,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    transposed: bool = False,
    output_padding: Sizes = 0,
) -> Tensor:
    """Convolve with a fabric over the channels, in place of `conv1d`, `conv2d` or `conv3d`.

    The stage with a kernel is a grouped convolution; the other stages mix the channels of each
    position. Without such a stage it is a 1 x 1 convolution.

    Args:
        x: (samples, in_features, *positions).
        factors: one weight per stage, as for `fabric_linear`.
        fabric: what to apply, or its JSON text.
        stride: steps between outputs, one number or one per spatial axis, 1 or more.
        padding: zeros on both sides, likewise, 0 or more.
        dilation: distance between taps, likewise, 1 or more.
        transposed: whether it stands for `conv_transpose1d`, 2d or 3d.
        output_padding: of a transposed convolution, as in torch.

    Returns:
        (samples, out_features, *positions), the positions that the dense convolution has.

    Raises:
        OperandError: x or a factor does not fit.

    Example:
        >>> fabric = Fabric.from_json('{"in":4,"out":2,"branches":[[[1,2,4,1,3,3]]]}')
        >>> x, weight = torch.ones(1, 4, 8, 8), torch.ones(1, 1, 2, 4, 3, 3)
        >>> fabric_conv(x, [weight], fabric, padding=1).shape
        torch.Size([1, 2, 8, 8])
    """
    text = fabric if isinstance(fabric, str) else fabric.to_json()
    axes = x.dim() - 2
    sizes = (stride, padding, dilation, output_padding)
    steps, edges, reach, extra = (_per_axis(size, axes) for size in sizes)
    window = Window.of(steps, edges, reach, transposed, extra)
    return convolve(x, factors, text, window, None)


def convolve(
    x: Tensor, factors: Sequence[Tensor], text: str, window: Window, bias: Tensor | None
) -> Tensor:
    """Do what `fabric_conv` does, for a caller who calls often, and add a bias to each channel.

    Args:
        x: (samples, in_features, *positions).
        factors: one weight per stage.
        text: the fabric, as JSON.
        window: made by `Window.of`.
        bias: (out_features,) or None.
    """
    found = direct.convolve(x, factors, text, window, bias)
    if found is not None:
        return found
    meet_dtensors()
    geometry: list[Any] = [list(sizes) for sizes in window[:3]]
    if window.transposed or any(window.output_padding):
        geometry += [window.transposed, list(window.output_padding)]
    y: Tensor = torch.ops.sparsify.fabric_conv(x, list(factors), text, *geometry)
    return y if bias is None else y + bias.to(y.dtype).reshape(-1, *[1] * (x.dim() - 2))


def _per_axis(size: Sizes, axes: int) -> list[int]:
    return [size] * axes if isinstance(size, int) else list(size)
