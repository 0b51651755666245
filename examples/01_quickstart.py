"""Lesson 1: one call turns a dense network into a fabric; after that, it is your model as before.

Run it:  python examples/01_quickstart.py
Needs:   pip install "sparsify-fabric[dev]"  (for scikit-learn's digits)
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import sparsify as sp

# Any model will do. This one has 166,000 weights in its matrices and sorts 8 x 8 pixel digits.
torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
)

# One call. `sparse` is a copy of the model, of the same class; the model itself is not touched.
# Budget: a tenth of the replaced layers' weights may stay, and it is never exceeded.
sparse = sp.sparsify(model, budget=0.1)
print(sparse, "\n")

# The new layers hold ordinary parameters, so ordinary training works. `param_groups` gives each
# factor of a fabric the learning rate that fits its size; it costs one line and is worth a lot.
images, digits = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images = images.float() / 8 - 1
train, test = slice(0, 1400), slice(1400, None)


def accuracy_after_training(network: nn.Module) -> float:
    optimiser = torch.optim.AdamW(sp.param_groups(network, lr=0.002))
    for _ in range(150):
        loss = functional.cross_entropy(network(images[train]), digits[train])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        hits = network(images[test]).argmax(1) == digits[test]
    return hits.float().mean().item()


for name, network in (("dense", model), ("fabric", sparse)):
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{name:6}  {parameters:>7,} parameters  {accuracy_after_training(network):.1%} right")
