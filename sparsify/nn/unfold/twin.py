"""A model with its composite owners unfolded, sharing every tensor with the user's own."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from ...errors import ModelError
from ..weight import DenseWeight
from .composites import unfold

__all__ = ["fold_weights", "shared_tensors", "unfolded_twin"]


def unfolded_twin(
    model: nn.Module,
    wanted: Collection[str] | None = None,
    weights: Mapping[str, bool] | None = None,
) -> nn.Module:
    """A second module tree over the same parameters and buffers, its composite owners unfolded.

    Args:
        model: the model; nothing in it changes.
        wanted: paths that the twin is to have: only owners above one of them are unfolded. None
            unfolds all.
        weights: raw parameters that become layers, see `DenseWeight`; whether each is (in, out).

    Returns:
        The twin; the model itself where there is nothing to unfold.

    Raises:
        ModelError: the model cannot be copied by `copy.deepcopy`.

    Example:
        >>> model = nn.Sequential(nn.LSTM(2, 4), nn.Identity())
        >>> [name for name, _ in unfolded_twin(model).named_parameters()][0]
        '0.input_l0.weight'
    """
    memo: dict[int, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) not in memo and _is_wanted(path, wanted):
            other = unfold(module)
            if other is not None:
                memo[id(module)] = other
    if not memo and not weights:
        return model
    memo.update(shared_tensors(model))
    try:
        copied: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"The model cannot be copied by copy.deepcopy ({type(error).__name__}: {error})."
        ) from error
    for name, flipped in (weights or {}).items():
        path, _, leaf = name.rpartition(".")
        owner = copied.get_submodule(path)
        owner.add_module(leaf, DenseWeight(_taken(owner, leaf), flipped))
    return copied


def fold_weights(model: nn.Module) -> None:
    """Put raw parameters back where `DenseWeight` stands for them.

    Args:
        model: changed in place.
    """
    for owner in list(model.modules()):
        for leaf, child in list(owner.named_children()):
            if isinstance(child, DenseWeight):
                del owner._modules[leaf]
                owner.register_parameter(leaf, child.weight)


def _taken(owner: nn.Module, leaf: str) -> nn.Parameter:
    """A parameter, taken out of its module."""
    parameter = owner._parameters.pop(leaf, None)
    if parameter is None:
        raise ModelError(f"{type(owner).__name__} has no parameter {leaf!r}.")
    return parameter


def _is_wanted(path: str, wanted: Collection[str] | None) -> bool:
    prefix = f"{path}." if path else ""
    return wanted is None or any(name.startswith(prefix) for name in wanted)


def shared_tensors(model: nn.Module) -> dict[int, Tensor]:
    """The memo of a deepcopy that copies no tensor of a model: each answers for itself."""
    found: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            for value in held.values():
                if isinstance(value, Tensor):
                    found[id(value)] = value
    return found
