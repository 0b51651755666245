"""Products with a parameter in an exported graph: which layer each of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ...nn.products import LeftLinear, TransposedLinear
from .layers import Match, Operand, operand, parameter

__all__ = ["MATCHERS"]

aten = torch.ops.aten


def _linear(root: nn.Module, node: fx.Node) -> Match | None:
    x, weight, *rest = node.args
    return _right(root, node, x, operand(root, weight), rest[0] if rest else None, flip=False)


def _matmul(root: nn.Module, node: fx.Node) -> Match | None:
    left, right = node.args[:2]
    weight = operand(root, right)
    if weight is not None:
        return _right(root, node, left, weight, None, flip=True)
    return _left(node, operand(root, left), right)


def _addmm(root: nn.Module, node: fx.Node) -> Match | None:
    bias, x, weight = node.args[:3]
    scaled = (*node.args[3:], *node.kwargs.values())
    if any(factor != 1 for factor in scaled):
        return None
    return _right(root, node, x, operand(root, weight), bias, flip=True)


def _einsum(root: nn.Module, node: fx.Node) -> Match | None:
    """A product over the last axis, such as "btc,co->bto", in either order of the operands."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    inputs, arrow, output = equation.partition("->")
    letters = inputs.split(",")
    if not arrow or not isinstance(operands, (list, tuple)) or len(operands) != 2 or node.kwargs:
        return None
    pairs = list(zip(letters, operands, strict=False))
    for (x_axes, x), (w_axes, w) in (pairs, pairs[::-1]):
        weight = parameter(root, w)
        if weight is None or len(w_axes) != 2 or len(set(x_axes)) != len(x_axes):
            continue
        lead, shared = x_axes[:-1], x_axes[-1:]
        for out, is_transposed in ((w_axes[0], False), (w_axes[1], True)):
            if (
                w_axes in (out + shared, shared + out)
                and output == lead + out
                and out not in x_axes
            ):
                return _right(root, node, x, weight, None, flip=is_transposed)
    return None


def _right(
    root: nn.Module, node: fx.Node, x: Any, weight: Operand | None, bias: Any, *, flip: bool
) -> Match | None:
    """A layer for x W^T + bias with a weight (out, in), or for x W + bias with `flip`."""
    if weight is None or weight.tensor.dim() != 2 or not isinstance(x, fx.Node):
        return None
    takes = {"weight": weight.name}
    if bias is not None:
        found = parameter(root, bias)
        if found is None or found.tensor.dim() != 1:
            return None
        takes["bias"] = found.name
    has_bias = bias is not None
    rows, columns = weight.tensor.shape
    if weight.transposed != flip:
        form = ("linear", "transposed")
        return Match(
            node, takes, form, lambda: TransposedLinear(rows, columns, has_bias, "meta"), (x,)
        )
    return Match(node, takes, ("linear",), lambda: nn.Linear(columns, rows, has_bias, "meta"), (x,))


def _left(node: fx.Node, weight: Operand | None, x: Any) -> Match | None:
    if weight is None or weight.transposed or weight.tensor.dim() != 2:
        return None
    if not isinstance(x, fx.Node) or x.meta["val"].dim() < 2:
        return None
    rows, columns = weight.tensor.shape
    takes = {"weight": weight.name}
    return Match(node, takes, ("left",), lambda: LeftLinear(columns, rows, "meta"), (x,))


MATCHERS: dict[Any, Callable[[nn.Module, fx.Node], Match | None]] = {
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.addmm.default: _addmm,
    aten.einsum.default: _einsum,
}
"""Operation -> what finds the layer in it."""
