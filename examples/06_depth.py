"""Lesson 6: depth. 512 layers of fabrics without a norm or a shortcut learn, if they start right.

Networks of width 64 in which every layer is a Monarch fabric of 8 x 8 blocks sort digits of 8 x 8
pixels. With tanh and the orthogonal init signals and gradients pass through all layers; with
PyTorch's own init, applied to each factor, their variance falls by a factor of 9 in every layer.
ReLU makes all inputs alike with depth, and no scale helps; mirrored pairs do: the network starts as
a linear one. `sparsify.recipes` has more, and `benchmarks/depth.py` compares all of it.

Run it:  python examples/06_depth.py [--quick]      (--quick: 64 layers instead of 512)
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import sparsify as sp
from sparsify.recipes import mirror_

DEPTH = 64 if "--quick" in sys.argv else 512
RELU_DEPTH = 64 if "--quick" in sys.argv else 128
STEPS = 150

images, digits = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images = images.float()
images = (images - images.mean()) / images.std()
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]


def fabric_net(depth: int, activation: type[nn.Module], gain: float = 1) -> nn.Module:
    """The sparse net takes its scale from the dense one: orthogonal matrices keep all lengths."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(64, 64)
        nn.init.orthogonal_(linear.weight, gain)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    return sp.sparsify(net, topology="monarch", budget=0.25, init="orthogonal")


def fabrics(net: nn.Module) -> list[sp.nn.FabricLinear]:
    return [layer for layer in net.modules() if isinstance(layer, sp.nn.FabricLinear)]


def pytorch_default(net: nn.Module) -> nn.Module:
    """What `nn.Linear` does, for each block of each factor (a, d, b, c): uniform in +-1/sqrt(c)."""
    for layer in fabrics(net):
        for factor in layer.factors:
            nn.init.uniform_(factor, -(factor.shape[3] ** -0.5), factor.shape[3] ** -0.5)
    return net


def mirrored(net: nn.Module) -> nn.Module:
    """Features 2k and 2k + 1 start as z and -z: relu(z) - relu(-z) is z again."""
    mirror_(fabrics(net))
    return net


def learn(net: nn.Module) -> float:
    """Adam, with a rate that falls with the depth, as many small changes add up."""
    rate = 0.15 / len(fabrics(net))
    optimiser = torch.optim.Adam(net.parameters(), lr=min(3e-3, rate), fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, STEPS)
    random = torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        batch = train[torch.randint(len(train), (128,), generator=random)]
        loss = functional.cross_entropy(net(images[batch]), digits[batch])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            print(f"  step {step:>3}: loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        return (net(images[test]).argmax(1) == digits[test]).float().mean().item()


torch.manual_seed(0)
print(f"{DEPTH} tanh layers, PyTorch's default init of each factor")
print(f"  {learn(pytorch_default(fabric_net(DEPTH, nn.Tanh))):.1%} right (guessing: 10%)")
print(f"{DEPTH} tanh layers, orthogonal init")
print(f"  {learn(fabric_net(DEPTH, nn.Tanh)):.1%} right")
print(f"{RELU_DEPTH} ReLU layers, orthogonal init")
print(f"  {learn(fabric_net(RELU_DEPTH, nn.ReLU, 2**0.5)):.1%} right")
print(f"{RELU_DEPTH} ReLU layers, mirrored pairs")
print(f"  {learn(mirrored(fabric_net(RELU_DEPTH, nn.ReLU))):.1%} right")
