"""Linear layers made of fabrics."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ..fabric import Fabric
from ..ops import fabric_linear
from .layer import FabricLayer, check_fabric

__all__ = ["FabricLinear", "FabricTransposedLinear"]


class FabricLinear(FabricLayer):
    """Stands for `nn.Linear`: y = fabric(x) + bias.

    Args:
        fabric: in_features -> out_features.
        bias: whether there is one.
        device: as in torch.
        dtype: as in torch.

    Raises:
        ConfigError: fabric is no Fabric, or one with a spatial stage.

    Example:
        >>> import sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 128, blocks=8))
        >>> layer(torch.zeros(3, 64)).shape, layer.weight.shape
        (torch.Size([3, 128]), torch.Size([128, 64]))
    """

    def __init__(
        self,
        fabric: Fabric,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See the class."""
        check_fabric(fabric)
        if fabric.kernel:
            raise ConfigError(
                f"A linear layer takes a fabric without a kernel; got one with {fabric.kernel}."
            )
        super().__init__(fabric, bias, device, dtype)
        self.in_features = fabric.in_features
        self.out_features = fabric.out_features
        self.reset_parameters()

    @property
    def fan_in(self) -> int:
        """Inputs per output of the dense layer."""
        return self.in_features

    @property
    def weight(self) -> Tensor:
        """The dense weight, (out_features, in_features)."""
        first = self.factors[0]
        identity = torch.eye(self.in_features, dtype=first.dtype, device=first.device)
        return fabric_linear(identity, list(self.factors), self._text).T

    def forward(
        self,
        x: Tensor,  # (*batch, in_features)
    ) -> Tensor:  # (*batch, out_features)
        """Apply the layer."""
        factors, bias = self._weights()
        return fabric_linear(x, factors, self._text, bias)


class FabricTransposedLinear(FabricLinear):
    """Stands for transformers' `Conv1D` (GPT-2), a Linear whose weight is (in, out).

    Example:
        >>> import sparsify as sp
        >>> sp.nn.FabricTransposedLinear(sp.fabric("low_rank", 8, 12, rank=2)).weight.shape
        torch.Size([8, 12])
    """

    @property
    def nf(self) -> int:
        """Output features, under the name that the dense layer has."""
        return self.out_features

    @property
    def nx(self) -> int:
        """Input features, under the name that the dense layer has."""
        return self.in_features

    @property
    def weight(self) -> Tensor:
        """The dense weight, (in_features, out_features)."""
        return super().weight.T
