"""The table of arms: what a dense model is compared with, at equal numbers of weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import sparsify as sp

__all__ = ["ARMS", "NARROW", "build", "groups", "weights"]

NARROW = "narrow dense"
"""The arm that a benchmark builds itself: a thinner dense model with as many weights."""

FABRICS = (
    "low_rank",
    "block_diagonal",
    "monarch",
    "clos",
    "expander",
    "butterfly",
    "parallel_butterfly",
)
"""Families that are an arm of their own, everywhere in the model."""

Arm = Callable[..., nn.Module]


def dense(model: nn.Module, **_: Any) -> nn.Module:
    """The model as it is."""
    return model


def automatic(model: nn.Module, **options: Any) -> nn.Module:
    """What sparsify picks."""
    return sp.sparsify(model, **options)


def family(name: str) -> Arm:
    """One family everywhere, as large as the budget allows."""

    def convert(model: nn.Module, **options: Any) -> nn.Module:
        return sp.sparsify(model, topology=name, **options)

    return convert


class Mask(nn.Module):
    """Lets a fixed number of random weights of each row pass, for `parametrize`."""

    keep: Tensor

    def __init__(self, weight: Tensor, per_row: int, random: torch.Generator) -> None:
        super().__init__()
        order = torch.rand(weight.shape, generator=random).flatten(1).argsort(1).view_as(weight)
        self.register_buffer("keep", (order < per_row).to(weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep


def random_mask(
    model: nn.Module, example_inputs: tuple[Any, ...], budget: float, seed: int, **options: Any
) -> nn.Module:
    """Random weights of each dense layer, as many as the budget allows, chosen once.

    Their variance is raised by what the layer lost in fan-in, so that outputs start as large as the
    dense layer's. The arithmetic stays dense: this arm is about accuracy, not speed.
    """
    plan = sp.plan(model, example_inputs, budget=budget, **options)
    masked = copy.deepcopy(model)
    random = torch.Generator().manual_seed(seed)
    for site in plan.replaced:
        layer = masked.get_submodule(site.name)
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        fan_in = layer.weight[0].numel()
        per_row = max(1, int(budget * fan_in))
        with torch.no_grad():
            layer.weight.mul_((fan_in / per_row) ** 0.5)
        mask = Mask(layer.weight, per_row, random)
        parametrize.register_parametrization(layer, "weight", mask, unsafe=True)
    return masked


ARMS: dict[str, Arm] = {
    "dense": dense,
    NARROW: dense,
    "random mask": random_mask,
    "automatic": automatic,
    **{name.replace("_", " "): family(name) for name in FABRICS},
}
"""By name: (model, example_inputs=, budget=, seed=) -> the model of the arm."""


def build(arm: str, model: nn.Module, **options: Any) -> nn.Module:
    """The model of an arm; a narrow twin comes narrow already."""
    return ARMS[arm](model, **options)


def weights(module: nn.Module) -> int:
    """Weights of matrices that can move: those behind a mask do not count."""
    masks = [m for m in module.modules() if isinstance(m, Mask)]
    hidden = sum(mask.keep.numel() - int(mask.keep.sum()) for mask in masks)
    return sum(p.numel() for p in module.parameters() if p.dim() > 1) - hidden


def groups(model: nn.Module, lr: float, rule: str = "factors") -> list[dict[str, Any]]:
    """Parameter groups: a rate per factor by the rule of `sp.param_groups`, or one for all."""
    if rule == "factors":
        return sp.param_groups(model, lr=lr)
    return [{"params": list(model.parameters()), "lr": lr, "weight_decay": 0.01}]
