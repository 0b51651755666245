"""What a kernel is: two pairs of functions, and what they support."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...fabric import Fabric
from ..steps import Gradients
from ..window import Window

__all__ = ["Kernel", "Request", "unless_real"]


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
    def forward(self, x: Tensor, factors: Sequence[Tensor], fabric: Fabric) -> Tensor:
        """Apply a fabric to x of (rows, in_features); gives (rows, out_features)."""

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


def unless_real(request: Request) -> str | None:
    """Say that only real floating point numbers are supported, where they are not what came."""
    return None if request.dtype.is_floating_point else "only real floating point is supported"
