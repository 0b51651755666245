"""The reference as a kernel: slow, plain, right; runs wherever torch does."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...fabric import Fabric
from .. import reference
from ..steps import Gradients
from ..window import Window
from .base import Kernel, Request, unless_real

__all__ = ["Reference"]


class Reference(Kernel):
    """`sparsify.ops.reference` behind the interface of a kernel."""

    def unsupported(self, request: Request) -> str | None:
        """Support all real numbers."""
        return unless_real(request)

    def forward(
        self, x: Tensor, factors: Sequence[Tensor], fabric: Fabric, bias: Tensor | None = None
    ) -> Tensor:
        """See Kernel."""
        y = reference.forward(x, factors, fabric).contiguous()
        return y if bias is None else y + bias

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        factors: Sequence[Tensor],
        fabric: Fabric,
        needs: Sequence[bool],
    ) -> Gradients:
        """See Kernel."""
        return _contiguous(reference.backward(grad, x, factors, fabric, needs))

    def forward_conv(
        self, x: Tensor, factors: Sequence[Tensor], fabric: Fabric, window: Window
    ) -> Tensor:
        """See Kernel."""
        return reference.forward(x, factors, fabric, window).contiguous()

    def backward_conv(
        self,
        grad: Tensor,
        x: Tensor,
        factors: Sequence[Tensor],
        fabric: Fabric,
        needs: Sequence[bool],
        window: Window,
    ) -> Gradients:
        """See Kernel."""
        return _contiguous(reference.backward(grad, x, factors, fabric, needs, window))


def _contiguous(grads: Gradients) -> Gradients:
    return [None if grad is None else grad.contiguous() for grad in grads]
