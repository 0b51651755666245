"""Dense products in the forms that programs have beside `nn.Linear`: x @ W and W @ x."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .linear import FabricLinear

__all__ = ["FabricLeftLinear", "LeftLinear", "TransposedLinear"]


class TransposedLinear(nn.Module):
    """y = x @ weight + bias, for a weight that is kept as (in_features, out_features).

    Transformers' `Conv1D` (GPT-2) is such a layer, and so is what a model does with a parameter of
    its own in `x @ self.w`.

    Args:
        in_features: inputs.
        out_features: outputs.
        bias: whether there is one.
        device: as in torch.
        dtype: as in torch.

    Example:
        >>> TransposedLinear(4, 2)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        weight = torch.empty(in_features, out_features, device=device, dtype=dtype)
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", None)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))
        if not weight.is_meta:
            nn.init.kaiming_uniform_(self.weight.T, a=5**0.5)

    def forward(
        self,
        x: Tensor,  # (*batch, in_features)
    ) -> Tensor:  # (*batch, out_features)
        """Apply the layer."""
        return functional.linear(x, self.weight.t(), self.bias)

    def extra_repr(self) -> str:
        """The sizes."""
        inputs, outputs = self.weight.shape
        return f"in_features={inputs}, out_features={outputs}, bias={self.bias is not None}"


class LeftLinear(nn.Module):
    """y = weight @ x: a linear layer over the last axis but one, as Mamba has it.

    Args:
        in_features: inputs.
        out_features: outputs.
        device: as in torch.
        dtype: as in torch.

    Example:
        >>> LeftLinear(4, 2)(torch.zeros(3, 4, 5)).shape
        torch.Size([3, 2, 5])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        weight = torch.empty(out_features, in_features, device=device, dtype=dtype)
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", None)
        self.in_features = in_features
        self.out_features = out_features
        if not weight.is_meta:
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(
        self,
        x: Tensor,  # (*batch, in_features, columns)
    ) -> Tensor:  # (*batch, out_features, columns)
        """Apply the layer."""
        return self.weight @ x

    def extra_repr(self) -> str:
        """The sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class FabricLeftLinear(FabricLinear):
    """Stands for `LeftLinear`: the fabric acts on the last axis but one.

    Example:
        >>> import sparsify as sp
        >>> layer = FabricLeftLinear(sp.fabric("low_rank", 4, 2, rank=1), bias=False)
        >>> layer(torch.zeros(3, 4, 5)).shape
        torch.Size([3, 2, 5])
    """

    def forward(
        self,
        x: Tensor,  # (*batch, in_features, columns)
    ) -> Tensor:  # (*batch, out_features, columns)
        """Apply the layer."""
        return super().forward(x.transpose(-1, -2)).transpose(-1, -2)
