"""How small models are trained: AdamW, a rate per factor, a short warm-up and half a cosine."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsify.demo.train import share

from .arms import groups, weights

__all__ = ["body_budget", "fit", "narrow"]


def fit(model: nn.Module, loss: Callable[[], Tensor], lr: float, steps: int) -> None:
    """Train a model in place.

    Args:
        model: what is trained.
        loss: of the model on a new batch.
        lr: base learning rate.
        steps: of the optimiser.
    """
    optimiser = torch.optim.AdamW(groups(model, lr), betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: share(step, steps))
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def narrow(make: Callable[[int], nn.Module], width: int, budget: float) -> int:
    """The largest width whose model has at most this share of the weights of the wide one."""

    def count(width: int) -> int:
        with torch.device("meta"):
            return weights(make(width))

    return bisect.bisect_right(range(1, width), budget * count(width), key=count)


def body_budget(model: nn.Module, body: int, budget: float) -> float:
    """The share that the body may have, so that the whole model has the share of the budget.

    Args:
        model: a dense model.
        body: weights of the layers that are replaced.
        budget: share of the weights of the model.
    """
    return budget - (1 - budget) * (weights(model) - body) / body
