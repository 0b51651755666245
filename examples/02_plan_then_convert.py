"""Lesson 2: look before you convert. A plan says what would become of each layer, and why.

Run it:  python examples/02_plan_then_convert.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import sparsify as sp


class Encoder(nn.Module):
    """A little residual network with layers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(256, 512)
        self.up = nn.ModuleList(nn.Linear(512, 1024) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(1024, 512) for _ in range(2))
        self.gate = nn.Linear(512, 16)
        self.head = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x))) * self.gate(x).sigmoid().mean(-1, keepdim=True)
        return self.head(x)


model = Encoder()
example_inputs = (torch.zeros(4, 256),)

# A dry run: nothing is converted, no weight is allocated. Note the layers that are kept, with the
# reason: the head decides between classes, and a layer with 16 outputs has nothing to save.
plan = sp.plan(model, example_inputs, budget=0.1)
print("Automatic:\n")
print(plan, "\n")

# Say what you want otherwise: keep some layers, give others their own family or share.
chosen = sp.plan(
    model,
    example_inputs,
    budget=0.1,
    exclude=["stem"],
    rules=[sp.Rule("up.*", topology="low_rank", budget=0.05)],
)
print("What the rules changed:\n")
print(plan.diff(chosen), "\n")

# A plan is data: store it, review it, edit it, and let exactly this plan be carried out.
again = sp.Plan.from_json(chosen.to_json())
again = again.edit("down.1", fabric=sp.fabric("monarch", 1024, 512, blocks=16))
sparse = sp.sparsify(model, example_inputs, plan=again, seed=0)
print("Carried out:", again.summary(), "\n")

# The saved file holds the recipe. To load it, build your own class, without weights if you like.
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "encoder.safetensors")
    sp.save(sparse, path)
    with torch.device("meta"):
        skeleton = Encoder()
    loaded = sp.load(path, model=skeleton)
    print(f"Saved in {path.stat().st_size:,} bytes.", end=" ")

x = torch.randn(4, 256)
print("Loaded bit by bit:", torch.equal(loaded(x), sparse(x)), "as", type(loaded).__name__)
