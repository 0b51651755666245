"""What all fabric layers share: factors as plain parameters, a bias, a dense view of the weight."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..fabric import Fabric
from ..init import initialise, write
from ..init.gain import DEFAULT_GAIN

__all__ = ["FabricLayer", "check_fabric"]


def check_fabric(fabric: object) -> None:
    """Reject what is no fabric, before anything is asked of it.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(fabric, Fabric):
        raise ConfigError(
            f"A fabric layer needs a Fabric, see sp.fabric(...); got {type(fabric).__name__}."
        )


class FabricLayer(nn.Module):
    """A layer whose weight is a fabric.

    Its parameters are ordinary dense tensors, one per stage: `factors.0`, `factors.1`, ... of shape
    (a, d, b, c, *kernel), or (out, degree, *kernel) for a graph stage, and `bias`. Optimisers, DDP,
    FSDP and safetensors see nothing special.

    Attributes:
        fabric: the topology.
        factors: the weights, in the order of `fabric.stages`.
        bias: (out_features,) or None.
    """

    bias: nn.Parameter | None
    spreads: ClassVar[bool] = False  # an input to many positions, as a transposed convolution does

    def __init__(
        self,
        fabric: Fabric,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Make the parameters; the layer's own constructor initialises them."""
        super().__init__()
        self.fabric = fabric
        self._text = fabric.to_json()  # what the ops take; torch.compile cannot call to_json
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self._names = tuple(str(place) for place in range(len(fabric.stages)))
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(stage.shape, **place)) for stage in fabric.stages
        )
        if bias:
            self.bias = nn.Parameter(torch.empty(fabric.out_features, **place))
        else:
            self.register_parameter("bias", None)

    def _weights(self) -> tuple[Sequence[Tensor], Tensor | None]:
        """The factors and the bias.

        The attributes of modules are slow: these cost 4 us. So they are read past them where they
        are the plain parameters that they were made as; not where a parametrization or a wrapper
        has put something else in their place.
        """
        try:
            modules: dict[str, Any] = self._modules
            own: dict[str, Tensor] = modules["factors"]._parameters
            return [own[name] for name in self._names], self._parameters["bias"]
        except KeyError:
            return list(self.factors), self.bias

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The dense weight, materialised and differentiable, in the dense layer's own shape."""

    @property
    @abstractmethod
    def fan_in(self) -> int:
        """Weights per output of the dense layer."""

    @property
    def density(self) -> float:
        """Parameters kept over parameters of the dense layer."""
        return self.fabric.parameters / (self.fabric.out_features * self.fan_in)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights: orthogonal, with the output variance of PyTorch's own layers.

        Args:
            generator: source of randomness; torch's global one by default, as its own layers do.
        """
        if any(factor.is_meta for factor in self.factors):
            return
        random = generator if generator is not None else torch.default_generator
        initialise(
            self.factors,
            self.fabric,
            gain=self.default_gain,
            random=random,
            centred=self.is_centred,
            spreads=self.spreads,
        )
        if self.bias is not None:
            bound = self.default_gain / DEFAULT_GAIN / math.sqrt(self.fan_in)
            value = torch.empty(self.bias.shape, dtype=self.bias.dtype)
            write(self.bias, value.uniform_(-bound, bound, generator=random))

    @property
    def default_gain(self) -> float:
        """What PyTorch's own init of the dense layer gives; see `sparsify.init.dense_gain`."""
        return DEFAULT_GAIN

    @property
    def is_centred(self) -> bool:
        """Whether an orthogonal init may put all weight on the centre tap."""
        return True

    def extra_repr(self) -> str:
        """The fabric, as one line."""
        return f"{self.fabric}, bias={self.bias is not None}"
