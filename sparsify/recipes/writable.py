"""Parameters in which a value stays that is written to them."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import ConfigError

__all__ = ["writable"]


def writable(layer: nn.Module, name: str, what: str) -> nn.Parameter:
    """A parameter of a layer, if it can be written to.

    Args:
        layer: that holds it, itself or in a part.
        name: the path to it, such as "weight" or "factors.0".
        what: what messages call the layer.

    Raises:
        ConfigError: it is computed from others, of no shape yet, without memory, or of whole
            numbers.

    Example:
        >>> writable(nn.Linear(3, 5), "weight", "the layer").shape
        torch.Size([5, 3])
    """
    parameter = dict(layer.named_parameters(remove_duplicate=False)).get(name)
    if parameter is None:
        reason = (
            "is computed anew in each call (weight_norm, pruning or another parametrization), and "
            "what is written to it is lost; remove that first and put it on again afterwards"
        )
    elif is_lazy(parameter):
        reason = "has no shape yet; run the model once first"
    elif parameter.is_meta:
        reason = "is on the meta device and has no values; fill the model first"
    elif not parameter.is_floating_point():
        reason = f"is of type {parameter.dtype}; take the model before it is quantised"
    else:
        return parameter
    raise ConfigError(f"The {name} of {what}, a {type(layer).__name__}, {reason}.")
