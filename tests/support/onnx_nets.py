"""Nets of fabrics to export."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsify as sp
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage

__all__ = ["GRAPHS", "MONARCH", "ODD", "ConvNet", "Net", "X"]

MONARCH = Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),))
ODD = Fabric(  # wraps, folds, has branches and both kinds of shuffle
    16,
    17,
    (
        (Stage(3, 4, 6, 1), Shuffle(12, stride=3), Stage(2, 3, 2, 3)),
        (Shuffle(16, seed=3), Stage(1, 17, 16, 1)),
    ),
)
GRAPHS = Fabric(  # of matchings, of sums and of words; wraps and folds
    16,
    19,
    (
        (
            GraphStage("random", 18, 36, 6, seed=2**63 + 5),
            Shuffle(36, seed=8),
            GraphStage("circulant", 36, 36, 5, seed=1),
        ),
        (GraphStage("torus", 16, 16, 5, (4, 4)), GraphStage("xor", 16, 32, 3, seed=6)),
    ),
)
X = torch.linspace(-2, 2, 3 * 5 * 16).reshape(3, 5, 16)


class Net(nn.Module):
    """Fabrics, one of them called twice, a dense layer, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = sp.nn.FabricLinear(MONARCH)
        self.second = sp.nn.FabricLinear(MONARCH, bias=False)
        self.dense = nn.Linear(16, 16)
        self.drop = nn.Dropout(0.5)
        self.third = sp.nn.FabricLinear(ODD)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.gelu(self.second(F.gelu(self.first(x)))))
        result: Tensor = self.third(self.drop(self.dense(x)))
        return result


class ConvNet(nn.Module):
    """Convolutions with and without taps, the last with graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.taps = sp.nn.FabricConv2d(MONARCH, 3, stride=2, padding=1)
        self.point = sp.nn.FabricConv2d(MONARCH, 1, stride=2)
        self.graphs = sp.nn.FabricConv2d(GRAPHS, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        taps = self.taps(x)
        return {"taps": taps, "point": self.point(taps), "graphs": self.graphs(taps)}
