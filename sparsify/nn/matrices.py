"""The weights of dense layers in one form, whatever the layer's own is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .computed import effective_weight
from .layer import FabricLayer
from .owners import dense, is_input_by_output
from .weight import DenseWeight

__all__ = ["array_of", "is_turned", "matrix_of", "matrix_of_fabric"]


def matrix_of(module: nn.Module) -> Tensor:
    """The weight of a dense layer as outputs by inputs, as the next call works with it.

    Args:
        module: a dense layer, see `sparsify.nn.dense`.

    Returns:
        (out, in / groups, *kernel), where it can be a view of the parameter.

    Raises:
        ModelError: the module is no dense layer.

    Example:
        >>> matrix_of(nn.ConvTranspose2d(4, 6, 3, groups=2)).shape
        torch.Size([6, 2, 3, 3])
    """
    layer = dense(module)
    if layer is None:
        raise ModelError(f"A {type(module).__name__} has no dense weight to read.")
    weight: Tensor = effective_weight(module).detach()
    if layer.kind.startswith("conv_transpose"):
        inputs = layer.in_features // layer.groups
        split = weight.reshape(layer.groups, inputs, *weight.shape[1:])
        return split.transpose(1, 2).flatten(0, 1)
    return weight.T if is_turned(module) else weight


def is_turned(module: nn.Module) -> bool:
    """Whether a dense layer keeps its weight as inputs by outputs, and so does its fabric layer.

    Example:
        >>> is_turned(nn.Linear(3, 5))
        False
    """
    if isinstance(module, DenseWeight):
        return bool(module.flipped)
    return is_input_by_output(module)


def matrix_of_fabric(layer: FabricLayer, module: nn.Module) -> Tensor:
    """The dense weight that a fabric layer stands for, in the same form.

    Args:
        layer: what replaced the module.
        module: the dense layer.

    Returns:
        (out, in / groups, *kernel); of a transposed convolution in its own form.

    Example:
        >>> import sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("low_rank", 8, 4, rank=1))
        >>> matrix_of_fabric(layer, nn.Linear(8, 4)).shape
        torch.Size([4, 8])
    """
    weight: Tensor = layer.weight.detach()
    return weight.T if is_turned(module) else weight


def array_of(module: nn.Module, name: str) -> Any:
    """The same as a numpy array of float64, or of float32 where that holds all values.

    Args:
        module: a dense layer.
        name: what messages call it.

    Raises:
        ModelError: it has no values.
    """
    weight = matrix_of(module)
    if weight.is_meta:
        raise ModelError(
            f"The weight of {name!r} is on the meta device and has no values to project. Load the "
            "weights first, or take another init."
        )
    wide = weight.dtype if weight.dtype == torch.float64 else torch.float32
    return weight.to("cpu", wide).numpy()
