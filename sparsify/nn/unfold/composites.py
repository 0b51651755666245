"""The table of composite owners, and how one of them is unfolded."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from torch import nn
from torch.nn.parameter import UninitializedParameter

from ...errors import ModelError
from ..lookup import line_of
from .experts import is_experts, unfold_experts
from .parts import carry_hooks

__all__ = ["COMPOSITES", "is_composite", "unfold"]

Unfold = Callable[[nn.Module], nn.Module]

COMPOSITES: dict[str, str | Unfold] = {
    "torch.nn.modules.activation.MultiheadAttention": ".attention:unfold_attention",
    "torch.nn.modules.rnn.RNN": ".recurrent:unfold_recurrent",
    "torch.nn.modules.rnn.LSTM": ".recurrent:unfold_recurrent",
    "torch.nn.modules.rnn.GRU": ".recurrent:unfold_recurrent",
    "torch.nn.modules.rnn.RNNCell": ".cells:unfold_cell",
    "torch.nn.modules.rnn.LSTMCell": ".cells:unfold_cell",
    "torch.nn.modules.rnn.GRUCell": ".cells:unfold_cell",
}
"""Class of the owner, by its full name -> what unfolds it: a function from the module to an
equivalent one with `nn.Linear` children, or where to find it. A subclass counts as its parent while
it has the parent's own forward. Add a line to serve another class; stacked experts as transformers
builds them are recognised by their attributes, whatever their class (`experts.py`)."""


def _unfolding(module: nn.Module) -> Unfold | None:
    found = line_of(module, COMPOSITES)
    if found is not None:
        return _load(found)
    return unfold_experts if is_experts(module) and "forward" not in vars(module) else None


def _load(found: str | Unfold) -> Unfold:
    if not isinstance(found, str):
        return found
    place, _, name = found.partition(":")
    function: Unfold = getattr(importlib.import_module(place, __package__), name)
    return function


def is_composite(module: nn.Module) -> bool:
    """Whether a module can be unfolded.

    Example:
        >>> is_composite(nn.LSTM(2, 2)), is_composite(nn.Linear(2, 2))
        (True, False)
    """
    return _unfolding(module) is not None


def _checked(module: nn.Module, function: Unfold) -> nn.Module:
    """What an entry of the table makes of a module, refused where it cannot be the same."""
    entry = f"The entry of {type(module).__name__} in COMPOSITES"
    try:
        other = function(module)
    except Exception as error:  # whatever a user's entry raises
        raise ModelError(f"{entry} failed: {type(error).__name__}: {error}") from error
    if not isinstance(other, nn.Module):
        raise ModelError(f"{entry} must give a torch.nn.Module; got {type(other).__name__}.")
    held, made = (sum(p.numel() for p in part.parameters()) for part in (module, other))
    if held != made and not any(isinstance(p, UninitializedParameter) for p in module.parameters()):
        raise ModelError(
            f"{entry} gives a module with {made} parameters; the owner has {held}. It must hold "
            "all of them, in the same memory."
        )
    return other


def unfold(module: nn.Module) -> nn.Module | None:
    """An equivalent module with layers for its dense products; None where it is no composite.

    Parameters are shared, the training mode and the hooks carried over.

    Args:
        module: any module; nothing in it changes.

    Raises:
        ModelError: the entry of the table fails, or leaves parameters out.

    Example:
        >>> unfolded = unfold(nn.GRU(4, 8))
        >>> unfolded.hidden_l0.weight.shape
        torch.Size([24, 8])
    """
    function = _unfolding(module)
    if function is None:
        return None
    other = _checked(module, function)
    other.training = module.training
    carry_hooks(other, module)
    for layer in set(other.modules()).difference(module.modules()):
        vars(layer)["unfolded_from"] = type(module)  # patterns of classes take the owner's layers
    return other
