"""Layers and converted models under torch.compile: one graph, any batch, training too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sparsify as sp


def _converted() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    return sp.sparsify(model, budget=0.4, include=["0", "2"])


FABRIC = sp.fabric("monarch", 24, 36, blocks_in=3, blocks_out=4, links=2)
LAYERS = {
    "linear": (lambda: sp.nn.FabricLinear(FABRIC), (24,)),
    "conv": (lambda: sp.nn.FabricConv2d(FABRIC, 3, padding=1), (24, 5, 5)),
    "converted": (_converted, (64,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_layers_agree(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (2, 5):
        x = torch.randn(batch, *shape)
        _assert_same(layer, compiled, x)


def _assert_same(layer: nn.Module, compiled: nn.Module, x: Tensor) -> None:
    parameters = list(layer.parameters())
    for run in (layer, compiled):
        y = run(x)
        grads = torch.autograd.grad(y.square().sum(), parameters)
        if run is layer:
            expected = (y, *grads)
        else:
            for found, wanted in zip((y, *grads), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
