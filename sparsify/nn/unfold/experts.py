"""Stacked experts with a layer for each expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from .parts import linear, take_over

__all__ = ["Experts", "is_experts", "unfold_experts"]

_MARKS = ("has_gate", "has_bias", "is_transposed", "num_experts", "down_proj", "_apply_gate")


def is_experts(module: nn.Module) -> bool:
    """Whether a module has stacked experts in the form that transformers gives them.

    Example:
        >>> is_experts(nn.Linear(2, 2))
        False
    """
    if not all(hasattr(module, mark) for mark in _MARKS):
        return False
    down = module._parameters.get("down_proj")
    return down is not None and down.dim() == 3


class Experts(nn.Module):
    """Experts as lists of layers: `gate_up_proj` (or `up_proj`) and `down_proj`, one per expert.

    Made by `unfold_experts`.
    """

    num_experts: int
    has_gate: bool
    act_fn: Any

    def __init__(self, owner: Any) -> None:
        """Share the parameters of stacked experts."""
        super().__init__()
        self._owner = type(owner)
        first = "gate_up_proj" if owner.has_gate else "up_proj"
        for name in (first, "down_proj"):
            self.add_module(name, _layers(owner, name))
        take_over(self, owner)
        for name, child in owner.named_children():
            self.add_module(name, child)

    def forward(
        self,
        hidden_states: Tensor,  # (tokens, width)
        top_k_index: Tensor,  # (tokens, chosen), numbers of experts
        top_k_weights: Tensor,  # (tokens, chosen)
    ) -> Tensor:  # (tokens, width)
        """Each expert on the tokens that chose it, weighted and summed."""
        chosen = top_k_index.shape[-1]
        weights = top_k_weights.reshape(-1, 1)
        total = torch.zeros_like(hidden_states)
        for expert, slots in enumerate(self._slots(top_k_index.reshape(-1))):
            if slots is None:
                continue
            rows = slots // chosen
            share = weights[slots]
            if torch.compiler.is_compiling():  # one token in vain: no expert is without rows
                rows = torch.cat([rows, torch.zeros_like(top_k_index[0, :1])])
                share = torch.cat([share, torch.zeros_like(weights[:1])])
            y = self._expert(expert, hidden_states[rows]) * share
            total = total.index_add(0, rows, y.to(total.dtype))
        return total

    def _slots(self, experts: Tensor) -> list[Tensor | None]:
        """For each expert, which of the choices are its own; None where it has none."""
        count = self.num_experts
        if torch.compiler.is_compiling():
            return [(experts == expert).nonzero().squeeze(1) for expert in range(count)]
        if isinstance(experts, FakeTensor):  # no values: what every expert gets on average
            every = torch.arange(len(experts), device=experts.device)
            return list(every.tensor_split(min(count, len(experts))))
        found = [(experts == expert).nonzero().squeeze(1) for expert in range(count)]
        return [slots if len(slots) else None for slots in found]

    def _expert(self, expert: int, x: Tensor) -> Tensor:
        """One expert on its tokens."""
        first: Any = self.gate_up_proj if self.has_gate else self.up_proj
        y = first[expert](x)
        y = self._owner._apply_gate(self, y) if self.has_gate else self.act_fn(y)
        last: Any = self.down_proj
        y = last[expert](y)
        norm = getattr(self, "post_expert_norm", None)
        result: Tensor = y if norm is None else norm(y)
        return result


def _layers(owner: Any, name: str) -> nn.ModuleList:
    """One layer per expert over the slices of a stacked parameter."""
    stacked = getattr(owner, name)
    biases = getattr(owner, f"{name}_bias") if owner.has_bias else [None] * len(stacked)
    return nn.ModuleList(
        linear(weight.T if owner.is_transposed else weight, bias)
        for weight, bias in zip(stacked, biases, strict=True)
    )


def unfold_experts(module: nn.Module) -> nn.Module:
    """Stacked experts as one layer per expert over the same parameters.

    Args:
        module: experts as transformers builds them, see `is_experts`.
    """
    return Experts(module)
