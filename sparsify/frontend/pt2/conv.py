"""Convolutions with a parameter in an exported graph: which layer each of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from .layers import Match, parameter

__all__ = ["MATCHERS"]

aten = torch.ops.aten

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DEFAULTS = {
    "bias": None,
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "dilation": 1,
    "transposed": False,
    "groups": 1,
}


def _matcher(*names: str) -> Callable[[nn.Module, fx.Node], Match | None]:
    """A matcher for an operation whose arguments behind input and weight have these names."""

    def match(root: nn.Module, node: fx.Node) -> Match | None:
        given = dict(zip(names, node.args[2:], strict=False))
        return _conv(root, node, {**_DEFAULTS, **given, **node.kwargs})

    return match


def _conv(root: nn.Module, node: fx.Node, options: dict[str, Any]) -> Match | None:
    x, weight = node.args[0], parameter(root, node.args[1])
    if weight is None or not isinstance(x, fx.Node) or weight.tensor.dim() not in (3, 4, 5):
        return None
    takes = {"weight": weight.name}
    bias, transposed = options.pop("bias"), bool(options.pop("transposed"))
    if bias is not None:
        found = parameter(root, bias)
        if found is None:
            return None
        takes["bias"] = found.name
    if any(isinstance(value, fx.Node) for value in options.values()):
        return None
    first, second, *kernel = weight.tensor.shape
    sizes = {
        name: _sizes(value, len(kernel)) for name, value in options.items() if name != "groups"
    }
    groups = int(options["groups"])
    channels = (first, second * groups) if transposed else (second * groups, first)
    if not transposed:
        sizes.pop("output_padding")
    cls: Any = (_TRANSPOSED if transposed else _CONVS)[len(kernel) - 1]

    def make() -> nn.Module:
        layer: nn.Module = cls(
            *channels, tuple(kernel), groups=groups, bias=bias is not None, device="meta", **sizes
        )
        return layer

    form = ("conv", transposed, groups, *sorted(sizes.items()))
    return Match(node, takes, form, make, (x,))


def _sizes(value: Any, rank: int) -> Any:
    """A size per axis; "same" and "valid" as they are."""
    if isinstance(value, (list, tuple)):
        return tuple(value) if len(value) == rank else tuple(value) * rank
    return value if isinstance(value, str) else (value,) * rank


_FORWARD = ("bias", "stride", "padding", "dilation", "groups")
_BACKWARD = ("bias", "stride", "padding", "output_padding", "groups", "dilation")

MATCHERS: dict[Any, Callable[[nn.Module, fx.Node], Match | None]] = {
    aten.conv1d.default: _matcher(*_FORWARD),
    aten.conv2d.default: _matcher(*_FORWARD),
    aten.conv3d.default: _matcher(*_FORWARD),
    aten.conv1d.padding: _matcher(*_FORWARD),
    aten.conv2d.padding: _matcher(*_FORWARD),
    aten.conv3d.padding: _matcher(*_FORWARD),
    aten.convolution.default: _matcher(
        "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups"
    ),
}
"""Operation -> what finds the layer in it."""


def _transposed(root: nn.Module, node: fx.Node) -> Match | None:
    given = dict(zip(_BACKWARD, node.args[2:], strict=False))
    return _conv(root, node, {**_DEFAULTS, **given, **node.kwargs, "transposed": True})


for _operation in (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
):
    MATCHERS[_operation] = _transposed
