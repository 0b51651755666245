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

    Only the spatial stage of a branch sees it; the other stages work on each position alone. The
    fields are in the order of `aten.convolution`.

    Attributes:
        stride: steps between outputs (between inputs, where transposed), 1 or more.
        padding: zeros added on both sides (positions cut off), 0 or more.
        dilation: distance between taps, 1 or more.
        transposed: whether it is a transposed convolution, which spreads each input over the taps.
        output_padding: positions added at the end of a transposed one's output, () for none.

    Example:
        >>> Window((2, 2), (1, 1), (1, 1)).outputs((8, 8), (3, 3))
        (4, 4)
        >>> Window((2, 2), (1, 1), (1, 1), True, (1, 1)).outputs((4, 4), (3, 3))
        (8, 8)
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool = False,
        output_padding: Sequence[int] = (),
    ) -> Window:
        """Build from the lists that the operator receives."""
        extra = tuple(output_padding) or (0,) * len(stride)
        return cls(tuple(stride), tuple(padding), tuple(dilation), transposed, extra)

    def outputs(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Positions that come out of `sizes` positions, axis by axis.

        Args:
            sizes: positions of the input, one per spatial axis.
            kernel: taps, one per spatial axis; () stands for one tap everywhere.

        Returns:
            The positions of the output; symbolic where the input is.
        """
        taps = kernel or (1,) * len(self.stride)
        if self.transposed:
            extra = self.output_padding or (0,) * len(self.stride)
            return tuple(
                (size - 1) * step - 2 * pad + reach * (tap - 1) + more + 1
                for size, tap, step, pad, reach, more in zip(
                    sizes, taps, self.stride, self.padding, self.dilation, extra, strict=True
                )
            )
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
        steps = zip(self.stride, self.dilation, strict=True)
        most = [max(pair) - 1 if self.transposed else 0 for pair in steps]
        if len(self.output_padding) > axes or not all(
            0 <= extra <= limit for extra, limit in zip(self.output_padding, most, strict=False)
        ):
            raise OperandError(
                f"The output padding of a transposed convolution is 0 or more and less than its "
                f"stride or dilation (of other convolutions 0); got {self.output_padding} with "
                f"stride {self.stride} and dilation {self.dilation}."
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

    def enter(self, x: Tensor, fabric: Fabric) -> Tensor:
        """What a fabric without taps does to positions before its first step.

        Args:
            x: (samples, channels, *positions), the input or the gradient of an output.
            fabric: one with taps takes all positions.

        Returns:
            The positions that the stride visits, a view where nothing is padded.
        """
        return x if fabric.kernel or self.transposed else self._sample(x, self._outputs(x))

    def enter_backward(self, grad: Tensor, fabric: Fabric, sizes: Sequence[int]) -> Tensor:
        """Spread a gradient back over the `sizes` positions of the input."""
        return grad if fabric.kernel or self.transposed else self._spread(grad, sizes)

    def leave(self, y: Tensor, fabric: Fabric) -> Tensor:
        """What a fabric without taps does to positions after its last step, where transposed."""
        return self._spread(y, self._outputs(y)) if self.transposed and not fabric.kernel else y

    def leave_backward(self, grad: Tensor, fabric: Fabric, counts: Sequence[int]) -> Tensor:
        """Take the gradient of the `counts` positions that were spread."""
        return self._sample(grad, counts) if self.transposed and not fabric.kernel else grad

    def _outputs(self, x: Tensor) -> tuple[int, ...]:
        return self.outputs(x.shape[2:], ())

    def _sample(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Pad, then take so many positions, a stride apart."""
        if any(self.padding):
            x = F.pad(x, [pad for size in reversed(self.padding) for pad in (size, size)])
        return x[self._visited(counts)]

    def _spread(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """The transpose: put positions a stride apart, cut off the padding, leave `sizes`."""
        padded = [size + 2 * pad for size, pad in zip(sizes, self.padding, strict=True)]
        spread = x.new_zeros((*x.shape[:2], *padded))
        spread[self._visited(x.shape[2:])] = x
        inner = zip(self.padding, sizes, strict=True)
        every = slice(None)
        return spread[(every, every, *(slice(pad, pad + size) for pad, size in inner))]

    def _visited(self, counts: Sequence[int]) -> tuple[slice, ...]:
        every = slice(None)
        steps = zip(self.stride, counts, strict=True)
        return (every, every, *(slice(0, count * step, step) for step, count in steps))


def spatial(x: Tensor, weight: Tensor, stage: Stage, window: Window) -> Tensor:
    """Apply the spatial stage of a branch: a grouped convolution, one group per (a, d).

    Transposed convolutions have the same weight, whose taps then say where an input goes.

    Args:
        x: (samples, a * c * d, *positions).
        weight: (a, d, b, c, *kernel).
        stage: the stage.
        window: the geometry.

    Returns:
        (samples, a * b * d, *positions that come out).
    """
    operands = _swap(x, stage, stage.c), _kernels(weight, stage, window), None
    y = torch.convolution(*operands, *window, stage.a * stage.d)  # type: ignore[arg-type]
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
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        _swap(grad, stage, stage.b),
        _swap(x, stage, stage.c),
        _kernels(weight, stage, window),
        None,
        *window,
        stage.a * stage.d,
        [*needs, False],
    )
    if needs[0]:
        grad_x = _swap_back(grad_x, stage, stage.c)
    if needs[1] and window.transposed:
        a, d, b, c, *kernel = stage.shape
        grad_weight = grad_weight.reshape(a, d, c, b, *kernel).transpose(2, 3)
    return grad_x, grad_weight.reshape(stage.shape) if needs[1] else grad_weight


def _kernels(weight: Tensor, stage: Stage, window: Window) -> Tensor:
    """The weight as convolutions have it: (out, in / groups, *kernel), transposed (in, out / ...).

    See `_swap` for the order of the channels.
    """
    a, d, b, c, *kernel = stage.shape
    if window.transposed:
        return weight.transpose(2, 3).reshape(a * d * c, b, *kernel)
    return weight.reshape(a * d * b, c, *kernel)


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
