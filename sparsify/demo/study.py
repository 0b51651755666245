"""The demo's model as a function to sweep: `sparsify sweep sparsify.demo.study:train ...`."""

from __future__ import annotations

import torch

from ..api import sparsify
from .data import standard_library
from .model import ByteTransformer
from .train import BATCH, LENGTH, bits_per_byte
from .train import train as learn

__all__ = ["DENSE", "train"]

DENSE = "dense"  # in place of a topology: the model as it is
_TESTS = 640  # windows of held-out text, unless training saw fewer


def train(
    topology: str = "auto",
    budget: float = 0.125,
    lr: float = 3e-3,
    seed: int = 0,
    steps: int = 200,
    width: int = 128,
) -> dict[str, float]:
    """Train a byte-level transformer on the standard library's sources, and test it.

    Args:
        topology: of its fabrics: a name of `sparsify list`, "auto", or "dense" for none.
        budget: share of the weights of the body that may stay.
        lr: learning rate of the body, which `param_groups` spreads over the factors of fabrics.
        seed: of weights and batches.
        steps: of the optimiser, of 1,024 bytes each.
        width: features per position, a multiple of 32.

    Returns:
        Bits per byte on held-out text (8 is knowing nothing), and the weights of the body.

    Example:
        >>> import sparsify as sp
        >>> grid = {"topology": ["dense", "monarch", "clos"], "lr": [2e-3, 8e-3]}
        >>> trials = sp.sweep(train, grid, "results.jsonl", jobs=2)  # doctest: +SKIP
    """
    text = standard_library()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ByteTransformer(width, length=LENGTH)
    if topology != DENSE:
        tokens = torch.zeros(2, LENGTH, dtype=torch.long)
        model = sparsify(model, (tokens,), topology=topology, budget=budget, seed=seed)
    learn(model, text.train, steps=steps, lr=lr, seed=seed, report=lambda bits: None)
    windows = min(_TESTS, steps * BATCH)
    return {
        "bits_per_byte": bits_per_byte(model, text.held_out, windows),
        "body_weights": model.body_weights(),
    }
