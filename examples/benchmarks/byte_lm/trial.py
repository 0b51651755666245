"""A transformer over bytes that reads the sources of Python's standard library."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparsify.demo.data import draw, standard_library
from sparsify.demo.model import ByteTransformer
from sparsify.demo.train import LENGTH, bits_per_byte, cross_entropy, share

from ..arms import NARROW, build, groups, weights

__all__ = ["run"]

LAYERS = 4
BATCH = 16
HEAD_WIDTH = 32
OUTER_RATE = 0.02  # of embeddings and head, the same for all arms, which convert the blocks only
VALIDATION = 400_000  # last bytes of the training files: learning rates are chosen on them
WINDOWS = 1024  # of the final test
LOOKS = 12  # points of the curve


def run(
    arm: str,
    width: int,
    budget: float,
    lr: float,
    seed: int,
    steps: int,
    rule: str = "factors",
    outer: float | None = OUTER_RATE,
    **options: Any,
) -> dict[str, Any]:
    """Train one arm and test it.

    Args:
        arm: a name of `ARMS`.
        width: features of the dense model.
        budget: share of the body's weights that the arm may have.
        lr: base learning rate of the body.
        seed: of weights and batches.
        steps: of BATCH windows.
        rule: "factors" for the rates of `sp.param_groups`, "one" for one rate.
        outer: learning rate of embeddings and head; None: as of the body.
        options: for `sp.sparsify`.

    Returns:
        Bits per byte of validation and test files, weights, arithmetic per byte of training, CPU
        seconds of training, and the curve of (step, bits of an eighth of the validation windows).
    """
    torch.manual_seed(seed)
    model = make(arm, width, budget, seed, **options)
    train, validation, test = texts()
    outside = {"params": model.outside(), "lr": outer or lr}
    optimiser = torch.optim.AdamW(
        [outside, *groups(model.blocks, lr, rule)], betas=(0.9, 0.98), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: share(step, steps))
    random = torch.Generator().manual_seed(seed)
    looks = {round(steps * (k + 1) / LOOKS) for k in range(LOOKS)}
    curve: list[tuple[int, float]] = []
    seconds = 0.0
    for step in range(1, steps + 1):
        start = time.process_time()
        loss = cross_entropy(model, draw(train, BATCH, LENGTH, random))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        seconds += time.process_time() - start
        if step in looks:
            curve.append((step, round(bits_per_byte(model, validation, WINDOWS // 8), 4)))
            model.train()
    return {
        "validation": round(bits_per_byte(model, validation, WINDOWS), 4),
        "test": round(bits_per_byte(model, test, WINDOWS), 4),
        "body": weights(model.blocks),
        "parameters": weights(model),
        "flops": flops(model) / (LENGTH * BATCH),
        "cpu_s": round(seconds, 1),
        "curve": curve,
    }


def make(arm: str, width: int, budget: float, seed: int, **options: Any) -> ByteTransformer:
    """The untrained model of an arm."""
    if arm == NARROW:
        width, head = narrow(width, budget)
    else:
        head = HEAD_WIDTH
    dense = ByteTransformer(width, LAYERS, LENGTH, head)
    tokens = torch.zeros(2, LENGTH, dtype=torch.long)
    model = build(arm, dense, example_inputs=(tokens,), budget=budget, seed=seed, **options)
    assert isinstance(model, ByteTransformer)
    return model


def narrow(width: int, budget: float) -> tuple[int, int]:
    """Width and head width of the dense model whose body has about the weights of the budget."""
    thin = 8 * round(width * budget**0.5 / 8)
    heads = max(count for count in range(1, thin // 16 + 1) if thin % count == 0)
    return thin, thin // heads


@functools.lru_cache
def texts() -> tuple[Tensor, Tensor, Tensor]:
    """Bytes to learn from, to choose rates by, to test on; the first two share one file at most."""
    corpus = standard_library()
    return corpus.train[:-VALIDATION], corpus.train[-VALIDATION:], corpus.held_out


def flops(model: nn.Module) -> int:
    """Floating-point operations of one training step, by torch's counter."""
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model, torch.zeros(BATCH, LENGTH + 1, dtype=torch.long)).backward()
    return counter.get_total_flops()
