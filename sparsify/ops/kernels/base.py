"""What a kernel is: two pairs of functions, and what they support."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...fabric import Fabric
from ..formula import rows_of
from ..steps import Gradients
from ..window import Window

__all__ = ["Bound", "Kernel", "Request", "unless_real"]


@dataclass(frozen=True)
class Request:
    """What a kernel is asked to do, as far as its answer may depend on it.

    Attributes:
        fabric: what to apply.
        device: device type, such as "cpu".
        dtype: of the input and of all factors.
        convolution: whether the input has positions.
    """

    fabric: Fabric
    device: str
    dtype: torch.dtype
    convolution: bool


class Kernel(ABC):
    """One implementation of the fabric operators.

    A subclass is stateless and made once. Operands are checked before they get here: they fit the
    fabric and share dtype and device, but they may have any strides and no rows. Results are new,
    contiguous tensors, the same bits for the same operands.
    """

    @abstractmethod
    def unsupported(self, request: Request) -> str | None:
        """Say why this kernel cannot serve a request, or None where it can."""

    @abstractmethod
    def forward(
        self, x: Tensor, factors: Sequence[Tensor], fabric: Fabric, bias: Tensor | None = None
    ) -> Tensor:
        """Apply a fabric to x of (rows, in_features), and add a bias of (out_features).

        Returns:
            (rows, out_features).
        """

    @abstractmethod
    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        factors: Sequence[Tensor],
        fabric: Fabric,
        needs: Sequence[bool],
    ) -> Gradients:
        """Gradients of x and of each factor, None where `needs` is False.

        Args:
            grad: (rows, out_features).
            x: (rows, in_features), the input of the forward call. Nothing else is kept from it.
            factors: one per stage.
            fabric: what was applied.
            needs: one entry for x, then one per factor.
        """

    def bind(self, fabric: Fabric) -> Bound:
        """Take a fabric for many calls, each with less to look up."""
        return _Plain(self, fabric)

    def bind_conv(self, fabric: Fabric, window: Window) -> Bound:
        """The same for convolutions."""
        return _PlainConv(self, fabric, window)

    def forward_conv(
        self, x: Tensor, factors: Sequence[Tensor], fabric: Fabric, window: Window
    ) -> Tensor:
        """Apply a fabric to x of (samples, in_features, *positions)."""
        raise NotImplementedError(f"{type(self).__name__} has no convolution.")

    def backward_conv(
        self,
        grad: Tensor,
        x: Tensor,
        factors: Sequence[Tensor],
        fabric: Fabric,
        needs: Sequence[bool],
        window: Window,
    ) -> Gradients:
        """As `backward`, for `forward_conv`."""
        raise NotImplementedError(f"{type(self).__name__} has no convolution.")


class Bound(ABC):
    """A kernel with a fabric: for contiguous factors and bias, and any leading axes.

    That of a convolution takes images, (samples, features, *positions).
    """

    @abstractmethod
    def forward(self, x: Tensor, factors: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        """Apply the fabric to x of (*lead, in_features); gives (*lead, out_features)."""

    @abstractmethod
    def backward(
        self, grad: Tensor, x: Tensor, factors: Sequence[Tensor], needs: Sequence[bool]
    ) -> Gradients:
        """See Kernel."""


class _Plain(Bound):
    def __init__(self, kernel: Kernel, fabric: Fabric) -> None:
        self._kernel, self._fabric = kernel, fabric

    def forward(self, x: Tensor, factors: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        y = self._kernel.forward(rows_of(x), factors, self._fabric, bias)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self._fabric.out_features)

    def backward(
        self, grad: Tensor, x: Tensor, factors: Sequence[Tensor], needs: Sequence[bool]
    ) -> Gradients:
        grads = self._kernel.backward(rows_of(grad), rows_of(x), factors, self._fabric, needs)
        if grads[0] is not None:
            grads[0] = grads[0].view(x.shape)
        return grads


class _PlainConv(Bound):
    def __init__(self, kernel: Kernel, fabric: Fabric, window: Window) -> None:
        self._kernel, self._fabric, self._window = kernel, fabric, window

    def forward(self, x: Tensor, factors: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        y = self._kernel.forward_conv(x, factors, self._fabric, self._window)
        return y if bias is None else y.add_(bias.view(-1, *(1,) * (x.dim() - 2)))

    def backward(
        self, grad: Tensor, x: Tensor, factors: Sequence[Tensor], needs: Sequence[bool]
    ) -> Gradients:
        return self._kernel.backward_conv(grad, x, factors, self._fabric, needs, self._window)


def unless_real(request: Request) -> str | None:
    """Say that only real floating point numbers are supported, where they are not what came."""
    return None if request.dtype.is_floating_point else "only real floating point is supported"
