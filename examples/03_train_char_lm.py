"""Lesson 3: train a fabric well. Its factors want higher learning rates than dense layers do.

A language model over characters, as in Bengio et al. 2003: the last 16 bytes, embedded side by
side, go through three dense layers. The text is the source code of some modules of Python itself.

Run it:  python examples/03_train_char_lm.py
"""

from __future__ import annotations

import math
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify as sp

CONTEXT = 16
STEPS = 250
RATE = 0.001

folder = Path(sysconfig.get_path("stdlib"))
sources = b"".join((folder / f"{name}.py").read_bytes() for name in ("argparse", "typing", "ast"))
text = torch.frombuffer(bytearray(sources), dtype=torch.uint8).long()
train, test = text[:-20_000], text[-20_000:]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    width = 32 * CONTEXT
    return nn.Sequential(
        nn.Embedding(256, 32),
        nn.Flatten(),
        nn.Linear(width, width),
        nn.GELU(),
        nn.LayerNorm(width),
        nn.Linear(width, width),
        nn.GELU(),
        nn.LayerNorm(width),
        nn.Linear(width, 256),
    )


def bits(model: nn.Module, data: Tensor, starts: Tensor) -> Tensor:
    """Bits per byte: how well the byte behind each window is foretold; 8 is knowing nothing."""
    windows = data[starts.unsqueeze(1) + torch.arange(CONTEXT + 1)]
    return functional.cross_entropy(model(windows[:, :-1]), windows[:, -1]) / math.log(2)


def learn(model: nn.Module, groups: list[dict]) -> float:
    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    random = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        starts = torch.randint(len(train) - CONTEXT, (512,), generator=random)
        loss = bits(model, train, starts)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return bits(model, test, torch.arange(0, len(test) - CONTEXT, 3)).item()


def fabric() -> nn.Module:
    return sp.sparsify(make_model(), (torch.zeros(2, CONTEXT, dtype=torch.long),), budget=0.1)


def one_rate(model: nn.Module) -> list[dict]:
    return [{"params": list(model.parameters()), "lr": RATE}]


def show(name: str, model: nn.Module, groups: list[dict]) -> None:
    weights = sum(p.numel() for p in model.parameters())
    print(f"{name:30}  {weights:>7,} parameters  {learn(model, groups):.3f} bits per byte")


show("dense", dense := make_model(), one_rate(dense))
show("fabric, dense's learning rate", sparse := fabric(), one_rate(sparse))
show("fabric, sp.param_groups", sparse := fabric(), sp.param_groups(sparse, lr=RATE))

print("\nThe groups of the last one:")
for group in sp.param_groups(sparse, lr=RATE):
    print(
        f"  {group['name']:20} learning rate {group['lr']:.4f}, decay {group['weight_decay']:.5f}"
    )
