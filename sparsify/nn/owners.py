"""The dense layers that a fabric can stand for: what they are and what they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ModelError
from ..fabric import Fabric
from .computed import drop_weight_norm, norm_parameters
from .conv import FabricConv1d, FabricConv2d, FabricConv3d
from .conv_transpose import FabricConvTranspose1d, FabricConvTranspose2d, FabricConvTranspose3d
from .layer import FabricLayer
from .linear import FabricLinear, FabricTransposedLinear
from .lookup import line_of
from .products import FabricLeftLinear
from .unfold import carry_hooks
from .weight import DenseWeight, FabricWeight

__all__ = ["Dense", "call_layers", "dense", "replacement"]


@dataclass(frozen=True)
class Dense:
    """What a dense layer is, read off its module.

    Args:
        kind: "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d" and so on.
        in_features: inputs; channels of all groups for a convolution.
        out_features: outputs.
        kernel: spatial taps, () for a Linear.
        groups: groups of a convolution.
    """

    kind: str
    in_features: int
    out_features: int
    kernel: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True)
class Owner:
    """One class of dense layers: how to read it, and how to build what replaces it."""

    read: Callable[[nn.Module], Dense]
    build: Callable[[nn.Module, Fabric], FabricLayer]


def _linear(module: nn.Module) -> Dense:
    return Dense("linear", int(module.in_features), int(module.out_features))  # type: ignore[arg-type]


def _transposed(module: nn.Module) -> Dense:
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    inputs, outputs = weight.shape
    return Dense("linear", int(inputs), int(outputs))


def _conv(module: nn.Module) -> Dense:
    conv: nn.modules.conv._ConvNd = module  # type: ignore[assignment]
    rank = len(conv.kernel_size)
    kind = "conv_transpose" if conv.transposed else "conv"
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.groups
    return Dense(f"{kind}{rank}d", *sizes)


def _build_weight(module: nn.Module, fabric: Fabric) -> FabricLayer:
    assert isinstance(module, DenseWeight)
    return FabricWeight(fabric, module.flipped, "meta", _dtype(module))


def _build_linear(module: nn.Module, fabric: Fabric) -> FabricLayer:
    return FabricLinear(fabric, module.bias is not None, "meta", _dtype(module))


def _build_transposed(module: nn.Module, fabric: Fabric) -> FabricLayer:
    return FabricTransposedLinear(fabric, module.bias is not None, "meta", _dtype(module))


def _build_conv(module: nn.Module, fabric: Fabric) -> FabricLayer:
    conv: nn.modules.conv._ConvNd = module  # type: ignore[assignment]
    classes = {1: FabricConv1d, 2: FabricConv2d, 3: FabricConv3d}
    return classes[len(conv.kernel_size)](
        fabric,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        device="meta",
        dtype=_dtype(module),
    )


def _build_conv_transpose(module: nn.Module, fabric: Fabric) -> FabricLayer:
    conv: nn.modules.conv._ConvTransposeNd = module  # type: ignore[assignment]
    classes = {1: FabricConvTranspose1d, 2: FabricConvTranspose2d, 3: FabricConvTranspose3d}
    return classes[len(conv.kernel_size)](
        fabric,
        conv.kernel_size,
        conv.stride,
        conv.padding,  # type: ignore[arg-type]
        conv.output_padding,
        conv.groups,
        conv.bias is not None,
        conv.dilation,
        device="meta",
        dtype=_dtype(module),
    )


def _build_left(module: nn.Module, fabric: Fabric) -> FabricLayer:
    return FabricLeftLinear(fabric, module.bias is not None, "meta", _dtype(module))


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


OWNERS: dict[str, Owner] = {
    "torch.nn.modules.linear.Linear": Owner(_linear, _build_linear),
    "torch.nn.modules.conv.Conv1d": Owner(_conv, _build_conv),
    "torch.nn.modules.conv.Conv2d": Owner(_conv, _build_conv),
    "torch.nn.modules.conv.Conv3d": Owner(_conv, _build_conv),
    "torch.nn.modules.conv.ConvTranspose1d": Owner(_conv, _build_conv_transpose),
    "torch.nn.modules.conv.ConvTranspose2d": Owner(_conv, _build_conv_transpose),
    "torch.nn.modules.conv.ConvTranspose3d": Owner(_conv, _build_conv_transpose),
    "sparsify.nn.products.LeftLinear": Owner(_linear, _build_left),
    "sparsify.nn.products.TransposedLinear": Owner(_transposed, _build_transposed),
    "sparsify.nn.weight.DenseWeight": Owner(_linear, _build_weight),
    "transformers.pytorch_utils.Conv1D": Owner(_transposed, _build_transposed),
}
"""Class of the dense layer, by its full name -> how to read it and what replaces it. A subclass
counts as its parent while it has the parent's own forward. Add a line to serve another class."""


def dense(module: nn.Module) -> Dense | None:
    """What dense layer a module is, None if it is none that a fabric can stand for.

    Example:
        >>> dense(nn.Linear(3, 5)).out_features
        5
    """
    owner = line_of(module, OWNERS)
    return None if owner is None else owner.read(module)


def is_input_by_output(module: nn.Module) -> bool:
    """Whether a dense layer keeps its weight as (in_features, out_features).

    Example:
        >>> is_input_by_output(nn.Linear(3, 5))
        False
    """
    owner = line_of(module, OWNERS)
    return owner is not None and owner.read is _transposed


def replacement(module: nn.Module, fabric: Fabric) -> FabricLayer:
    """The fabric layer that stands for a dense one; its factors are not initialised yet.

    Device, dtype, bias, requires_grad, training mode and hooks are carried over; a `weight_norm` is
    not.

    Args:
        module: a dense layer of the table.
        fabric: of the same sizes.

    Raises:
        ModelError: the module is no such layer, or of other sizes.

    Example:
        >>> import sparsify as sp
        >>> replacement(nn.Linear(8, 8), sp.fabric("low_rank", 8, 8, rank=1)).factors[0].shape
        torch.Size([1, 1, 1, 8])
    """
    owner = line_of(module, OWNERS)
    if owner is None:
        raise ModelError(f"A fabric cannot stand for a {type(module).__name__}.")
    read = owner.read(module)
    if (read.in_features, read.out_features) != (fabric.in_features, fabric.out_features):
        raise ModelError(
            f"The layer is {read.in_features} -> {read.out_features}; the fabric is "
            f"{fabric.in_features} -> {fabric.out_features}."
        )
    norm = norm_parameters(module)
    weight = module.get_parameter(norm[-1]) if norm else next(module.parameters())
    layer = owner.build(module, fabric).to_empty(device=weight.device)
    layer.requires_grad_(weight.requires_grad)
    _carry_over(module, layer)
    return layer


@torch.no_grad()
def _carry_over(module: nn.Module, layer: FabricLayer) -> None:
    bias = module.bias
    if layer.bias is not None and isinstance(bias, torch.Tensor):
        layer.bias.copy_(bias)
        layer.bias.requires_grad_(bias.requires_grad)
    layer.train(module.training)
    carry_hooks(layer, module)
    drop_weight_norm(layer._forward_pre_hooks)


def call_layers(model: nn.Module) -> None:
    """Let modules that read the weights of their layers call the layers, where those are fabrics.

    Where it does not train, PyTorch's `TransformerEncoderLayer` gives the weights of its linear
    layers to a fused function. Of a fabric that is the dense weight, made anew in every call.

    Args:
        model: changed in place.

    Example:
        >>> import sparsify as sp
        >>> layer = nn.TransformerEncoderLayer(16, 2, 32)
        >>> layer.linear1 = sp.nn.FabricLinear(sp.fabric("low_rank", 16, 32, rank=2))
        >>> call_layers(layer)
        >>> layer.activation_relu_or_gelu  # none that the fused function has
        0
    """
    for part in model.modules():
        if isinstance(part, nn.TransformerEncoderLayer) and any(
            isinstance(layer, FabricLayer) for layer in part.modules()
        ):
            part.activation_relu_or_gelu = 0
        if isinstance(part, nn.TransformerEncoder) and any(
            isinstance(layer, FabricLayer) for layer in part.modules()
        ):
            part.use_nested_tensor = False  # only the fused function takes them
