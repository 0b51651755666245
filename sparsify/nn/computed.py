"""Weights that a layer computes anew in each call: which a fabric may replace, which stay.

`weight_norm` only says how the numbers are stored, as length and direction: the fabric takes the
place of the layer with the weight that it has, and the norm goes. `spectral_norm`, `orthogonal`,
pruning and whatever we do not know hold the weight to something that a fabric would not hold to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = [
    "copies_of_computed",
    "drop_weight_norm",
    "effective_weight",
    "held_to",
    "norm_parameters",
]

_HELD = {
    "_SpectralNorm": "spectral_norm, which bounds its gain",
    "_Orthogonal": "orthogonal, which keeps its columns at right angles",
}
_REMOVE = "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"


def norm_parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters that `weight_norm` computes the weight of a layer from.

    Args:
        module: a dense layer.

    Returns:
        Length and direction; () where the layer has no weight norm, or something else besides.

    Example:
        >>> norm_parameters(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))[1]
        'parametrizations.weight.original1'
    """
    if parametrize.is_parametrized(module):
        held: Any = module.parametrizations
        kinds = [type(one).__name__ for one in held["weight"]] if set(held) == {"weight"} else []
        names = tuple(f"parametrizations.weight.original{place}" for place in (0, 1))
        return names if kinds == ["_WeightNorm"] and not any(_hooks(module)) else ()
    hooks = list(_hooks(module))
    is_norm = [isinstance(hook, WeightNorm) and hook.name == "weight" for hook in hooks]
    return ("weight_g", "weight_v") if is_norm == [True] else ()


def held_to(module: nn.Module) -> str:
    """What holds the computed weight of a layer, and how to let it go; "" where nothing does.

    Example:
        >>> held_to(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)))[:44]
        'its weight is held by spectral_norm, which b'
    """
    if norm_parameters(module):
        return ""
    if parametrize.is_parametrized(module):
        held: Any = module.parametrizations
        name, first = next((name, parts[0]) for name, parts in held.items())
        for parts in held.values():
            first = next((part for part in parts if type(part).__name__ in _HELD), first)
        kind = type(first).__name__
        what = _HELD.get(kind, f"the parametrization {kind.lstrip('_')}")
        return f"its {name} is held by {what}; to convert it: {_REMOVE.replace('weight', name)}"
    for hook in _hooks(module):
        if isinstance(hook, SpectralNorm):
            how = "torch.nn.utils.remove_spectral_norm(layer)"
            return f"its weight is held by {_HELD['_SpectralNorm']}; to convert it: {how}"
        if isinstance(hook, BasePruningMethod):
            how = f"torch.nn.utils.prune.remove(layer, {hook._tensor_name!r})"
            return f"its {hook._tensor_name} is pruned; to convert it: {how}"
        return "it holds more than one weight norm"
    return ""


def effective_weight(module: nn.Module) -> Any:
    """The weight that the next call of a dense layer works with.

    An old `weight_norm` hook writes `weight` anew in each call, so that what lies there is of the
    last one.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return hook.compute_weight(module)
    return module.weight


def copies_of_computed(model: nn.Module) -> dict[int, Tensor]:
    """For `copy.deepcopy`, its memo: copies of what old hooks computed, which it refuses itself."""
    held = (value for part in model.modules() for value in vars(part).values())
    computed = (value for value in held if isinstance(value, Tensor) and not value.is_leaf)
    return {id(value): value.detach().clone() for value in computed}


def drop_weight_norm(hooks: dict[int, Any]) -> None:
    """Take the old hook of `weight_norm` out of the forward pre-hooks of a layer, in place."""
    for key in [key for key, hook in hooks.items() if isinstance(hook, WeightNorm)]:
        del hooks[key]


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The old hooks that compute parameters."""
    kinds = (WeightNorm, SpectralNorm, BasePruningMethod)
    return (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, kinds))
