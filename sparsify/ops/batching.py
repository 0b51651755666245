"""torch.vmap over the operators.

A batched input alone is one more leading axis. Anything else (batched weights, as in ensembles; a
gradient for each sample) goes through the formulas, which torch batches by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import formula
from .schema import LIBRARY

__all__: list[str] = []


def _is_batched(dims: Any) -> bool:
    return any(dim is not None for dim in dims)


def _fabric(
    info: Any, dims: tuple[Any, ...], x: Tensor, factors: list[Tensor], text: str
) -> tuple[Tensor, int]:
    if _is_batched(dims[1]):
        return _by_formula(formula.apply, info, dims, x, factors, text)
    return torch.ops.sparsify.fabric(x.movedim(dims[0], 0), factors, text), 0


def _fabric_conv(
    info: Any, dims: tuple[Any, ...], x: Tensor, factors: list[Tensor], text: str, *window: Any
) -> tuple[Tensor, int]:
    if _is_batched(dims[1]):
        return _by_formula(formula.apply, info, dims, x, factors, text, *window)
    x = x.movedim(dims[0], 0)
    y = torch.ops.sparsify.fabric_conv(x.flatten(0, 1), factors, text, *window)
    return y.unflatten(0, x.shape[:2]), 0


def _gradients(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[list[Tensor], list[int]]:
    grads, _ = _by_formula(formula.gradients, info, dims, *arguments)
    return grads, [0] * len(grads)


def _by_formula(
    call: Callable[..., Any], info: Any, dims: tuple[Any, ...], *arguments: Any
) -> tuple[Any, int]:
    """Batch a formula; only tensors and lists of tensors have a batch axis."""
    places = [i for i, value in enumerate(arguments) if isinstance(value, (Tensor, list))]
    places = [i for i in places if _holds_tensors(arguments[i])]

    def on_tensors(*tensors: Any) -> Any:
        filled = list(arguments)
        for place, value in zip(places, tensors, strict=True):
            filled[place] = value
        return call(*filled)

    batched = torch.vmap(on_tensors, in_dims=tuple(dims[i] for i in places))
    return batched(*(arguments[i] for i in places)), 0


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or all(isinstance(item, Tensor) for item in value)


for _name, _rule in (
    ("fabric", _fabric),
    ("fabric_conv", _fabric_conv),
    ("fabric_backward", _gradients),
    ("fabric_conv_backward", _gradients),
):
    torch.library.register_vmap(f"sparsify::{_name}", _rule, lib=LIBRARY)
