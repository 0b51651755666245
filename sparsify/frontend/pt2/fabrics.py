"""Our own operators in an exported graph, as the layers that they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ...fabric import Fabric
from ...nn import (
    FabricConv1d,
    FabricConv2d,
    FabricConv3d,
    FabricConvTranspose1d,
    FabricConvTranspose2d,
    FabricConvTranspose3d,
    FabricLinear,
)
from .layers import Match, parameter

__all__ = ["MATCHERS"]

aten = torch.ops.aten

_CONVS: dict[tuple[int, bool], Any] = {
    (1, False): FabricConv1d,
    (2, False): FabricConv2d,
    (3, False): FabricConv3d,
    (1, True): FabricConvTranspose1d,
    (2, True): FabricConvTranspose2d,
    (3, True): FabricConvTranspose3d,
}
_ARRANGED = (aten.to.dtype, aten.reshape.default, aten.view.default)


def _linear(root: nn.Module, node: fx.Node) -> Match | None:
    x, factors, text, *rest = node.args
    bias = rest[0] if rest else node.kwargs.get("bias")
    takes = _takes(root, factors, bias)
    if takes is None or not isinstance(x, fx.Node):
        return None
    reads = x.target is aten.eye.default and bias is None
    if reads:
        takes = _with_bias(root, takes)
    fabric, has_bias = Fabric.from_json(str(text)), "bias" in takes

    def make() -> nn.Module:
        return FabricLinear(fabric, has_bias, "meta")

    return Match(node, takes, ("fabric", str(text)), make, (x,), owned=True, reads=reads)


def _with_bias(root: nn.Module, takes: dict[str, str]) -> dict[str, str]:
    """The same with the bias of the layer, where its weight alone is asked for.

    So does an LSTM made of fabrics: in a graph it runs as one operator on dense weights, which the
    graph makes of the factors.
    """
    path, _, first = takes["factors.0"].rpartition(".factors.")
    if not first or "bias" not in root.get_submodule(path)._parameters:
        return takes
    return {**takes, "bias": f"{path}.bias"}


def _conv(root: nn.Module, node: fx.Node) -> Match | None:
    """A convolution with the addition of its bias, which is an operation of its own."""
    x, factors, text, stride, padding, dilation, *rest = node.args
    transposed, output_padding = [*rest, False, []][:2] if rest else (False, [])
    last, bias = _biased(node)
    takes = _takes(root, factors, bias)
    if takes is None or not isinstance(x, fx.Node):
        return None
    fabric = Fabric.from_json(str(text))
    stride, padding, dilation = (tuple(sizes) for sizes in (stride, padding, dilation))  # type: ignore[arg-type]
    rank, has_bias = len(stride), bias is not None
    kernel = fabric.kernel or (1,) * rank
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    if transposed:
        options["output_padding"] = tuple(output_padding) or (0,) * rank  # type: ignore[arg-type]

    def make() -> nn.Module:
        cls = _CONVS[rank, bool(transposed)]
        layer: nn.Module = cls(fabric, kernel, bias=has_bias, device="meta", **options)
        return layer

    form = ("fabric", str(text), bool(transposed), *sorted(options.items()))
    return Match(last, takes, form, make, (x,), owned=True)


def _biased(node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The addition of a bias to a convolution, and the bias; the node and None without one."""
    users = list(node.users)
    if len(users) == 1 and users[0].target is aten.add.Tensor and users[0].args[0] is node:
        bias = users[0].args[1]
        while isinstance(bias, fx.Node) and bias.target in _ARRANGED:
            bias = bias.args[0]
        if (
            isinstance(bias, fx.Node)
            and bias.op == "get_attr"
            and str(bias.target).endswith("bias")
        ):
            return users[0], bias
    return node, None


def _takes(root: nn.Module, factors: Any, bias: Any) -> dict[str, str] | None:
    """The path of each parameter by its name in the layer, None where one is no parameter."""
    operands = {f"factors.{place}": factor for place, factor in enumerate(factors)}
    if bias is not None:
        operands["bias"] = bias
    found = {name: parameter(root, node) for name, node in operands.items()}
    takes = {name: operand.name for name, operand in found.items() if operand is not None}
    return takes if len(takes) == len(found) else None


MATCHERS: dict[Any, Callable[[nn.Module, fx.Node], Match | None]] = {
    torch.ops.sparsify.fabric.default: _linear,
    torch.ops.sparsify.fabric_conv.default: _conv,
}
"""Operation -> what finds the layer in it."""
