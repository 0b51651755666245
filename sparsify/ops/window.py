"""The geometry of a convolution: where its taps fall, and which positions come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fabric import Fabric, Stage
from .errors import OperandError

__all__ = ["Window", "spatial", "spatial_backward"]


class Window(NamedTuple):
    """How a convolution walks over its positions, one number per spatial axis.

    Only the spatial stage of a branch sees it; the other stages work on each position alone.

    Attributes:
        stride: steps between outputs, 1 or more.
        padding: zeros added on both sides, 0 or more.
        dilation: distance between taps, 1 or more.

    Example:
        >>> Window((2, 2), (1, 1), (1, 1)).outputs((8, 8), (3, 3))
        (4, 4)
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Window:
        """Build from the lists that the operator receives."""
        return cls(tuple(stride), tuple(padding), tuple(dilation))

    def outputs(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Positions that come out of `sizes` positions, axis by axis.

        Args:
            sizes: positions of the input, one per spatial axis.
            kernel: taps, one per spatial axis; () stands for one tap everywhere.

        Returns:
            The positions of the output; symbolic where the input is.
        """
        taps = kernel or (1,) * len(self.stride)
        return tuple(
            (size + 2 * pad - reach * (tap - 1) - 1) // step + 1
            for size, tap, step, pad, reach in zip(
                sizes, taps, self.stride, self.padding, self.dilation, strict=True
            )
        )

    def check(self, x: Tensor, fabric: Fabric) -> None:
        """Reject an input, or a fabric, that this window cannot walk over.

        Raises:
            OperandError: a wrong number of axes or size, or branches that differ in their kernels.
        """
        axes = len(self.stride)
        if not axes or x.dim() != axes + 2:
            raise OperandError(
                f"A convolution over {axes} spatial axes needs an input of {axes + 2} axes "
                f"(samples, channels, positions); got shape {tuple(x.shape)}."
            )
        if min(self.stride) < 1 or min(self.padding) < 0 or min(self.dilation) < 1:
            raise OperandError(
                f"A convolution needs stride and dilation of 1 or more and padding of 0 or more; "
                f"got {self.stride}, {self.dilation} and {self.padding}."
            )
        kernel = fabric.kernel
        if kernel and len(kernel) != axes:
            raise OperandError(
                f"The fabric has a kernel of {len(kernel)} axes, {kernel}; the stride "
                f"{self.stride} has {axes}."
            )
        for branch in fabric.branches:
            if kernel and not any(getattr(step, "kernel", ()) for step in branch):
                raise OperandError(
                    f"Every branch of a convolution needs one stage with the kernel {kernel}; "
                    f"a branch of {fabric} has none."
                )

    def sample(self, x: Tensor) -> Tensor:
        """Pad and stride without taps, all that a 1 x 1 convolution does to positions.

        Args:
            x: (samples, channels, *positions).

        Returns:
            The positions that the stride visits, a view where nothing is padded.
        """
        if any(self.padding):
            x = F.pad(x, [pad for size in reversed(self.padding) for pad in (size, size)])
        if all(step == 1 for step in self.stride):
            return x
        return x[self._visited()]

    def sample_backward(self, grad: Tensor, sizes: Sequence[int]) -> Tensor:
        """Spread a gradient back over `sizes` positions, the transpose of `sample`."""
        padded = [size + 2 * pad for size, pad in zip(sizes, self.padding, strict=True)]
        spread = grad.new_zeros((*grad.shape[:2], *padded))
        spread[self._visited()] = grad
        inner = zip(self.padding, sizes, strict=True)
        every = slice(None)
        return spread[(every, every, *(slice(pad, pad + size) for pad, size in inner))]

    def _visited(self) -> tuple[slice, ...]:
        every = slice(None)
        return (every, every, *(slice(None, None, step) for step in self.stride))


def spatial(x: Tensor, weight: Tensor, stage: Stage, window: Window) -> Tensor:
    """Apply the spatial stage of a branch: a grouped convolution, one group per (a, d).

    Args:
        x: (samples, a * c * d, *positions).
        weight: (a, d, b, c, *kernel).
        stage: the stage.
        window: the geometry.

    Returns:
        (samples, a * b * d, *positions that come out).
    """
    groups = stage.a * stage.d
    kernels = weight.reshape(groups * stage.b, stage.c, *stage.kernel)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(stage.kernel) - 1]
    y = convolve(_swap(x, stage, stage.c), kernels, None, *window, groups)
    return _swap_back(y, stage, stage.b)


def spatial_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stage: Stage,
    window: Window,
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of `spatial` by x and by weight; what `needs` does not ask for is undefined."""
    groups = stage.a * stage.d
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        _swap(grad, stage, stage.b),
        _swap(x, stage, stage.c),
        weight.reshape(groups * stage.b, stage.c, *stage.kernel),
        None,
        *window,
        False,
        [0] * len(stage.kernel),
        groups,
        [*needs, False],
    )
    if needs[0]:
        grad_x = _swap_back(grad_x, stage, stage.c)
    return grad_x, grad_weight.reshape(stage.shape) if needs[1] else grad_weight


def _swap(x: Tensor, stage: Stage, width: int) -> Tensor:
    """Reorder channels from (a, width, d) to (a, d, width), so that groups are contiguous."""
    if stage.d == 1 or width == 1:
        return x
    blocks = x.reshape(x.shape[0], stage.a, width, stage.d, *x.shape[2:])
    return blocks.transpose(2, 3).reshape(x.shape)


def _swap_back(x: Tensor, stage: Stage, width: int) -> Tensor:
    """Undo `_swap`."""
    if stage.d == 1 or width == 1:
        return x
    blocks = x.reshape(x.shape[0], stage.a, stage.d, width, *x.shape[2:])
    return blocks.transpose(2, 3).reshape(x.shape)
