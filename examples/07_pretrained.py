"""Lesson 7: a model that is trained already. Project it, tune it a little, and save the rest.

A byte-level transformer is trained dense. Then a quarter of the weights of its body has to do. Its
fabrics get the weights that come nearest to the trained ones (`init="project"`), without and with
some text for calibration, and are tuned for a tenth of the steps. The rival is the same fabric,
trained from scratch for all the steps that the dense model and the tuning had together.

Run it:  python examples/07_pretrained.py [--quick] [--seed 0]      (--quick: a few steps of each)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

import sparsify as sp
from sparsify.demo.data import draw, standard_library
from sparsify.demo.model import ByteTransformer
from sparsify.demo.train import BATCH, LENGTH, bits_per_byte

QUICK = "--quick" in sys.argv
SEED = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 0
WIDTH = 32 if QUICK else 256
STEPS, TUNING = (20, 2) if QUICK else (800, 80)
WINDOWS = 16 if QUICK else 640  # of held-out text
BUDGET = 0.25
OUTER_SHARE = 20 / 3  # of the body's rate, for embeddings and head: 0.02 where the body has 0.003
RATES = (3e-3,) if QUICK else (2.5e-3, 4e-3)  # from scratch, of which the best is shown
TUNING_RATES = (1e-3,) if QUICK else (2e-4, 5e-4)  # the same for every projected arm

text = standard_library()
torch.set_num_threads(2)


def learn(model: ByteTransformer, steps: int, lr: float) -> float:
    """AdamW, warm-up, half a cosine wave; bits per byte of files that it has not seen."""
    outer = {"params": model.outside(), "lr": OUTER_SHARE * lr}
    optimiser = torch.optim.AdamW([outer, *sp.param_groups(model.blocks, lr=lr)], betas=(0.9, 0.98))
    warm = max(1, steps // 10)
    schedule = LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    random = torch.Generator().manual_seed(SEED)
    model.train()
    for _ in range(steps):
        windows = draw(text.train, BATCH, LENGTH, random)
        scores = model(windows[:, :-1])
        loss = functional.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return bits(model)


def bits(model: nn.Module) -> float:
    """Bits per byte of held-out text."""
    return bits_per_byte(model, text.held_out, WINDOWS)


def best(start: ByteTransformer, steps: int, rates: Sequence[float]) -> tuple[float, float]:
    """The lowest bits per byte of several rates, all from the same start, and that rate."""
    ends = []
    for rate in rates:
        model = ByteTransformer(WIDTH)
        model = sp.sparsify(model, example, plan=recipes[start])
        model.load_state_dict(start.state_dict())
        ends.append((learn(model, steps, rate), rate))
    return min(ends)


torch.manual_seed(SEED)
dense = ByteTransformer(WIDTH)
untrained = ByteTransformer(WIDTH)
print(f"Train dense: {STEPS} steps", flush=True)
trained_bits = learn(dense, STEPS, 3e-3)
print(f"  {trained_bits:.3f} bits per byte, {dense.body_weights():,} weights in its body")

random = torch.Generator().manual_seed(123 + SEED)
batches = [draw(text.train, 32, LENGTH, random)[:, :-1] for _ in range(1 if QUICK else 6)]
example = (batches[0][:2],)
recipes: dict[nn.Module, sp.Plan] = {}

blind = sp.plan(dense, example, budget=BUDGET, topology="monarch")
print("\nProject, look, tune. Monarch chosen without data:", flush=True)
for name, calibration in (("plain", None), ("with calibration", batches)):
    sparse = sp.sparsify(dense, example, plan=blind, init="project", calibration=calibration)
    recipes[sparse] = blind
    end, rate = best(sparse, TUNING, TUNING_RATES)
    print(f"  {name:16}  {bits(sparse) - trained_bits:+.3f}  tuned {end:.3f} (rate {rate:g})")

print("Fabrics chosen by their errors:", flush=True)
for name, calibration in (("plain", None), ("with calibration", batches)):
    recipe = sp.plan(dense, example, budget=BUDGET, init="project", calibration=calibration)
    sparse = sp.sparsify(dense, example, plan=recipe, init="project", calibration=calibration)
    recipes[sparse] = recipe
    end, rate = best(sparse, TUNING, TUNING_RATES)
    print(f"  {name:16}  {bits(sparse) - trained_bits:+.3f}  tuned {end:.3f} (rate {rate:g})")
print(f"\n{recipe}\n")

print(f"From scratch for {STEPS + TUNING} steps:", flush=True)
for name, plan in (("Monarch", blind), ("chosen by errors", recipe)):
    fresh = sp.sparsify(untrained, example, plan=plan)
    recipes[fresh] = plan
    end, rate = best(fresh, STEPS + TUNING, RATES)
    print(f"  {name:16}  {end:.3f} (rate {rate:g})", flush=True)
