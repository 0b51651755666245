"""Lesson 6: depth. 512 layers of fabrics without a norm or a skip learn, if they start right.

A tanh network of width 64 in which every layer is a Monarch fabric of 8 x 8 blocks sorts digits of
8 x 8 pixels. With the orthogonal init signals and gradients pass through all layers. With PyTorch's
own init, applied to each factor, their variance falls by a factor of 9 in every layer.

Run it:  python examples/06_depth.py [--quick]      (--quick: 64 layers instead of 512)
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import sparsify as sp

DEPTH = 64 if "--quick" in sys.argv else 512
STEPS = 150

images, digits = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
images = images.float()
images = (images - images.mean()) / images.std()
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]


def fabric_net() -> nn.Module:
    """The sparse net takes its scale from the dense one: orthogonal matrices keep all lengths."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        linear = nn.Linear(64, 64)
        nn.init.orthogonal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    return sp.sparsify(net, topology="monarch", budget=0.25, init="orthogonal")


def pytorch_default(net: nn.Module) -> nn.Module:
    """What `nn.Linear` does, for each block of each factor (a, d, b, c): uniform in +-1/sqrt(c)."""
    for layer in net.modules():
        if isinstance(layer, sp.nn.FabricLinear):
            for factor in layer.factors:
                nn.init.uniform_(factor, -(factor.shape[3] ** -0.5), factor.shape[3] ** -0.5)
    return net


def learn(net: nn.Module) -> float:
    """Adam, with a rate that falls with the depth, as many small changes add up."""
    rate = min(3e-3, 0.15 / DEPTH)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
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
print(f"{DEPTH} layers, PyTorch's default init of each factor")
print(f"  {learn(pytorch_default(fabric_net())):.1%} right (guessing: 10%)")
print(f"{DEPTH} layers, orthogonal init")
print(f"  {learn(fabric_net()):.1%} right")
