"""Small models for exported programs, each with its inputs and what becomes of its operations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.zoo.entry import noise

__all__ = ["PROGRAMS", "Program", "batch", "exported"]

DYNAMIC = torch.export.Dim.DYNAMIC


@dataclass(frozen=True)
class Program:
    """A model to export.

    Args:
        make: the model.
        inputs: example inputs; the first axis of each is the batch.
        layers: path -> class of what its weights are in the raised module.
        left: how many products stay operations.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    layers: dict[str, str] = field(default_factory=dict)
    left: int = 0


def batch(tensors: tuple[Tensor, ...], rows: int) -> tuple[Tensor, ...]:
    """The same inputs with another number of rows."""
    return tuple(t[torch.arange(rows) % len(t)].clone() for t in tensors)


def exported(
    program: Program, *, training: bool = False, model: nn.Module | None = None, **options: Any
) -> torch.export.ExportedProgram:
    """Export a model with a batch of any size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = program.make() if model is None else model
    inputs = program.inputs()
    options.setdefault("dynamic_shapes", tuple({0: DYNAMIC} for _ in inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about LSTMs
        return torch.export.export(model.train(training), inputs, **options)


class Net(nn.Module):
    """Convolutions, batch norm, dropout and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Dropout2d(0.2),
            nn.Conv2d(64, 64, 3, stride=2, dilation=2, groups=2),
        )
        self.hidden = nn.Linear(64, 128)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))
        return self.head(self.drop(self.hidden(x).relu()))


class Convolutions(nn.Module):
    """Each kind of convolution, in the forms that operations have for them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(8, 16, 3, padding="same", padding_mode="circular")
        self.up1 = nn.ConvTranspose1d(16, 8, 4, 2, 1)
        self.up2 = nn.ConvTranspose2d(8, 16, 3, 2, 1, output_padding=1, dilation=2)
        self.three = nn.Conv3d(16, 8, (1, 3, 3), padding="same")
        self.up3 = nn.ConvTranspose3d(8, 4, 2, 2, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up1(self.one(x))
        x = self.up2(x[:, :, None, :].expand(-1, -1, 3, -1))
        return self.up3(self.three(x[:, :, None]))


class Products(nn.Module):
    """Products with parameters of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"w": (64, 32), "v": (64, 48), "mix": (5, 7), "e": (48, 40), "f": (24, 40)}
        for name, shape in {**shapes, "b": (48,), "in_weight": (32, 32), "in_bias": (32,)}.items():
            self.register_parameter(name, nn.Parameter(0.1 * noise(*shape)))

    def forward(self, x: Tensor) -> Tensor:  # (batch, 7, 32)
        x = functional.linear(x, self.in_weight, self.in_bias)
        x = self.mix @ functional.linear(x, self.w)
        x = torch.addmm(self.b, x.flatten(0, 1), self.v).relu()
        x = torch.einsum("nc,co->no", x, self.e)
        return torch.einsum("nc,oc->no", x, self.f)


class Tied(nn.Module):
    """An embedding and a head with one weight, and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.body = nn.Linear(32, 32)
        self.head = nn.Linear(32, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(self.embedding(x)).relu()))


class Autoencoder(nn.Module):
    """A weight that other code reads too, transposed and without its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Linear(32, 64)
        self.loose = nn.Parameter(0.1 * noise(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.linear(x, self.loose) + x @ self.loose
        return functional.linear(functional.linear(self.g(x), self.g.weight.t()), self.g.weight)


class Recurrent(nn.Module):
    """Recurrent modules one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True, dropout=0.3)
        self.b = nn.LSTM(32, 16, proj_size=8, bias=False, batch_first=True)
        self.c = nn.GRU(8, 12)
        self.d = nn.RNN(12, 6, nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, (h, c) = self.a(x)
        x, (g, _) = self.b(x)
        x, k = self.c(x.transpose(0, 1))
        x, _ = self.d(x)
        return x, h, c, g, k


class Attention(nn.Module):
    """Attention to itself, whose query, key and value share a matrix, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(64, 4, dropout=0.3, batch_first=True)
        self.head = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attend(x, x, x, need_weights=False)[0])


class Normed(nn.Module):
    """Weights that are computed from parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.utils.parametrizations.weight_norm(nn.Linear(16, 32))
        self.b = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.b(self.a(x)), self.b.weight.exp().t())


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 128), nn.Linear(128, 10)
    )


PROGRAMS: dict[str, Program] = {
    "mlp": Program(_mlp, lambda: (noise(3, 64),), {"0": "Linear", "3": "Linear", "4": "Linear"}),
    "net": Program(
        Net,
        lambda: (noise(3, 3, 8, 8),),
        {
            "features.0": "Conv2d",
            "features.4": "Conv2d",
            "hidden": "Linear",
            "head": "Linear",
        },
    ),
    "convolutions": Program(
        Convolutions,
        lambda: (noise(2, 8, 6),),
        {
            "one": "Conv1d",
            "up1": "ConvTranspose1d",
            "up2": "ConvTranspose2d",
            "three": "Conv3d",
            "up3": "ConvTranspose3d",
        },
    ),
    "products": Program(
        Products,
        lambda: (noise(3, 7, 32),),
        {
            "in_weight": "Linear",
            "w": "Linear",
            "mix": "LeftLinear",
            "v": "TransposedLinear",
            "e": "TransposedLinear",
            "f": "Linear",
        },
    ),
    "layer": Program(lambda: nn.Linear(8, 4), lambda: (noise(3, 8),), {"linear": "Linear"}),
    "tied": Program(
        Tied, lambda: (torch.arange(21).view(3, 7),), {"body": "Linear", "head": "Linear"}
    ),
    "autoencoder": Program(
        Autoencoder, lambda: (noise(3, 32),), {"g": "Linear", "loose": "Linear"}, left=3
    ),
    "recurrent": Program(
        Recurrent,
        lambda: (noise(2, 5, 8),),
        {"a": "LSTM", "b": "LSTM", "c": "GRU", "d": "RNN"},
    ),
    "attention": Program(
        Attention,
        lambda: (noise(2, 7, 64),),
        {"attend.in_proj": "Linear", "attend.out_proj": "Linear", "head": "Linear"},
    ),
    "normed": Program(Normed, lambda: (noise(2, 16),), {"b": "Linear"}, left=2),
}
