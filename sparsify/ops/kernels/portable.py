"""Features-major batched products in plain torch: the kernel that runs wherever torch does.

Inside a cascade the rows of a tile are the last, contiguous axis; then every permutation between
stages is a stride of a batched matrix product. Tiles are small enough that what lies between stages
stays in cache, in memory that is kept from call to call. The backward computes it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...fabric import Fabric, GraphStage
from ..steps import Gradients, plain_branches
from ..window import Window
from .base import Kernel, Request, unless_real
from .images import Images, images
from .tiles import Tiles

__all__ = ["Portable"]


class Portable(Kernel):
    """Batched products over tiles."""

    def unsupported(self, request: Request) -> str | None:
        """Support all real numbers and Kronecker-sparse stages."""
        if any(isinstance(stage, GraphStage) for stage in request.fabric.stages):
            return "only Kronecker-sparse stages are supported, not graph stages"
        return unless_real(request)

    def forward(
        self, x: Tensor, factors: Sequence[Tensor], fabric: Fabric, bias: Tensor | None = None
    ) -> Tensor:
        """See Kernel."""
        if not x.shape[0]:
            return x.new_empty((0, fabric.out_features))
        y = _tiles(fabric, factors).forward(_runs(x))
        return y if bias is None else y.add_(bias)

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        factors: Sequence[Tensor],
        fabric: Fabric,
        needs: Sequence[bool],
    ) -> Gradients:
        """See Kernel."""
        grad_x = x.new_empty(x.shape) if needs[0] else None
        grads = [
            factor.new_zeros(factor.shape) if need else None
            for factor, need in zip(factors, needs[1:], strict=True)
        ]
        if x.shape[0]:
            _tiles(fabric, factors).backward(_runs(grad), _runs(x), grads, grad_x)
        return [grad_x, *grads]

    def bind_conv(self, fabric: Fabric, window: Window) -> Images:
        """See Kernel; on the CPU."""
        return images(fabric, window, True)

    def forward_conv(
        self, x: Tensor, factors: Sequence[Tensor], fabric: Fabric, window: Window
    ) -> Tensor:
        """See Kernel."""
        return images(fabric, window, x.device.type == "cpu").forward(x, factors, None)

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
        is_near = x.device.type == "cpu"
        return images(fabric, window, is_near).backward(grad, x, factors, needs)


def _tiles(fabric: Fabric, factors: Sequence[Tensor]) -> Tiles:
    branches = plain_branches(fabric)
    return Tiles(branches, fabric.in_features, fabric.out_features, factors, by_row=True)


def _runs(x: Tensor) -> Tensor:
    """Make each row contiguous."""
    return x if x.stride(1) == 1 else x.contiguous()
