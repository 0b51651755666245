"""The native library as a kernel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...errors import ConfigError
from ...fabric import Fabric
from ...native.library import why_not
from ..steps import Gradients
from .base import Kernel, Request
from .compiled import TYPES, Compiled, compiled

__all__ = ["Native"]


class Native(Kernel):
    """Fused, tiled cascades in C++ with vector instructions, on the CPU."""

    def unsupported(self, request: Request) -> str | None:
        """Support all stages on the CPU, where the library is there; no convolution."""
        why = why_not()
        if why is not None:
            return f"there is no native library: {why}"
        if request.device != "cpu":
            return "only the CPU is supported"
        if request.dtype not in TYPES:
            return f"only {', '.join(str(dtype) for dtype in TYPES)} are supported"
        if request.convolution:
            return "convolution is not supported"
        try:
            compiled(request.fabric.to_json())
        except ConfigError as error:
            return str(error)
        return None

    def bind(self, fabric: Fabric) -> Compiled:
        """See Kernel."""
        return compiled(fabric.to_json())

    def forward(
        self, x: Tensor, factors: Sequence[Tensor], fabric: Fabric, bias: Tensor | None = None
    ) -> Tensor:
        """See Kernel."""
        weights = [factor.contiguous() for factor in factors]
        return self.bind(fabric).forward(x, weights, None if bias is None else bias.contiguous())

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        factors: Sequence[Tensor],
        fabric: Fabric,
        needs: Sequence[bool],
    ) -> Gradients:
        """See Kernel."""
        weights = [factor.contiguous() for factor in factors]
        return self.bind(fabric).backward(grad, x, weights, needs)
