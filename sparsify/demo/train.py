"""Training and testing, the same for every arm of the demo."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from ..optim import param_groups
from .data import draw, spread
from .model import ByteTransformer

__all__ = ["BATCH", "LENGTH", "OUTER_RATE", "bits_per_byte", "cross_entropy", "share", "train"]

LENGTH = 128  # bytes that a model sees at once
BATCH = 8
WARM_UP = 0.1  # share of the steps
OUTER_RATE = 0.02  # of embeddings and head, which no arm converts

Report = Callable[[float], None]


def train(
    model: ByteTransformer, text: Tensor, *, steps: int, lr: float, seed: int, report: Report
) -> float:
    """AdamW with warm-up and a cosine, on batches that depend on nothing but the seed.

    Args:
        model: trained in place.
        text: bytes, (length,) uint8.
        steps: of BATCH windows of LENGTH bytes each.
        lr: learning rate of the body, which `param_groups` spreads over the factors of fabrics.
        seed: of the batches.
        report: called after each step with the loss in bits per byte.

    Returns:
        Seconds.
    """
    groups = [{"params": model.outside(), "lr": OUTER_RATE}, *param_groups(model.blocks, lr=lr)]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    schedule = LambdaLR(optimiser, lambda step: share(step, steps))
    random = torch.Generator().manual_seed(seed)
    model.train()
    start = time.perf_counter()
    for _ in range(steps):
        loss = cross_entropy(model, draw(text, BATCH, LENGTH, random))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        report(loss.item() / math.log(2))
    return time.perf_counter() - start


@torch.no_grad()
def bits_per_byte(model: nn.Module, text: Tensor, windows: int) -> float:
    """Cross-entropy over windows spread evenly over a text; 8 is knowing nothing."""
    model.eval()
    parts = spread(text, windows, LENGTH).split(4 * BATCH)
    total = sum(cross_entropy(model, part).item() * len(part) for part in parts)
    return total / windows / math.log(2)


def cross_entropy(
    model: nn.Module,
    windows: Tensor,  # (batch, length + 1)
) -> Tensor:
    """Nats per byte."""
    scores: Tensor = model(windows[:, :-1])
    return functional.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())


def share(step: int, steps: int) -> float:
    """Of the learning rate: up in a line, down in half a cosine wave."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
