"""Our own operators in an exported graph, as the layers that they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ..fabric import Fabric
from ..nn import FabricLinear
from .pt2_layers import Match, parameter

__all__ = ["MATCHERS"]


def _linear(root: nn.Module, node: fx.Node) -> Match | None:
    x, factors, text, *rest = node.args
    bias = rest[0] if rest else node.kwargs.get("bias")
    takes = _takes(root, factors, bias)
    if takes is None or not isinstance(x, fx.Node):
        return None
    fabric = Fabric.from_json(str(text))
    has_bias = bias is not None
    return Match(
        node, takes, ("fabric", str(text)), lambda: FabricLinear(fabric, has_bias, "meta"), (x,)
    )


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
}
"""Operation -> what finds the layer in it."""
