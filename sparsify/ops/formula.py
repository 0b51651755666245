"""The operators as formulas: the reference behind the operators' own argument lists.

Where torch needs something that it can differentiate or batch by itself, it gets these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..fabric import Fabric
from . import reference
from .steps import Gradients
from .window import Window

__all__ = ["apply", "apply_conv", "gradients"]


def apply(x: Tensor, factors: Sequence[Tensor], text: str, bias: Tensor | None = None) -> Tensor:
    """Compute what `fabric` returns."""
    fabric = Fabric.from_json(text)
    y = reference.forward(rows_of(x), factors, fabric)
    y = y.reshape(*x.shape[:-1], fabric.out_features)
    return y if bias is None else y + bias


def apply_conv(x: Tensor, factors: Sequence[Tensor], text: str, *window: Any) -> Tensor:
    """Compute what `fabric_conv` returns."""
    return reference.forward(x, factors, Fabric.from_json(text), Window.of(*window))


def gradients(
    grad: Tensor, x: Tensor, factors: Sequence[Tensor], text: str, *rest: Any
) -> list[Tensor]:
    """Compute what `fabric_backward` or `fabric_conv_backward` returns."""
    fabric = Fabric.from_json(text)
    *window, needs = rest
    if window:
        grads = reference.backward(grad, x, factors, fabric, needs, Window.of(*window))
        return wanted(grads)
    grads = reference.backward(rows_of(grad), rows_of(x), factors, fabric, needs)
    if grads[0] is not None:
        grads[0] = grads[0].reshape(x.shape)
    return wanted(grads)


def rows_of(x: Tensor) -> Tensor:
    """See all leading axes as one: (rows, features)."""
    if x.dim() == 2:
        return x
    rows = 1
    for size in x.shape[:-1]:
        rows *= size
    return x.reshape(rows, x.shape[-1])


def wanted(grads: Gradients) -> list[Tensor]:
    """Drop the gradients that nobody asked for."""
    return [grad for grad in grads if grad is not None]
