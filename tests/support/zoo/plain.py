"""Models of torch alone: each holds its weights in another way."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from .entry import Entry, image, noise
from .nets import Mixer, UNet


class LeNet(nn.Module):
    """Two convolutions, three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))


class Attention(nn.Module):
    """`nn.MultiheadAttention`, which keeps three weights in one and calls none of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.head(y.mean(1))


class Recurrent(nn.Module):
    """`nn.LSTM`, two layers, both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 32)
        self.lstm = nn.LSTM(32, 64, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.embed(x))
        return self.head(y[:, -1])


class RawParameters(nn.Module):
    """Products with parameters of its own, no layer anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.1 * torch.randn(64, 32))
        self.taps = nn.Parameter(0.1 * torch.randn(8, 1, 3))
        self.last = nn.Parameter(0.1 * torch.randn(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.linear(x, self.first))
        x = functional.relu(functional.conv1d(x[:, None], self.taps, padding=1)).mean(1)
        return x @ self.last


class Tied(nn.Module):
    """The head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.fc = nn.Linear(32, 32)
        self.head = nn.Linear(32, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(functional.relu(self.fc(self.embed(ids))))


class Autoencoder(nn.Module):
    """A layer called twice, and one whose weight is read, transposed, to decode."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.encoder, self.head = (
            nn.Linear(32, 32),
            nn.Linear(32, 64),
            nn.Linear(64, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.twice(functional.relu(self.twice(x))))
        decoded = functional.linear(self.encoder(x), self.encoder.weight.t())
        return self.head(functional.linear(decoded, self.encoder.weight))


class Normed(nn.Module):
    """Weights computed by parametrizations: weight norm twice, spectral norm once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(nn.Conv1d(8, 16, 3, padding=1))
        self.fc = parametrizations.weight_norm(nn.Linear(16, 32))
        self.head = parametrizations.spectral_norm(nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.fc(functional.relu(self.conv(x)).mean(-1))))


class OldNormed(nn.Module):
    """A weight computed by the hook of the old weight norm."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and in old models all the same
            self.fc = nn.utils.weight_norm(nn.Linear(16, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.fc(x)))


class DataDependent(nn.Module):
    """Values decide which layer runs, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.left(x) if x.sum() > 0 else self.right(x)
        for _ in range(min(int(x.abs().max().item() * 2) + 1, 3)):
            x = torch.tanh(self.left(x))
        return self.head(x)


def _mlp() -> nn.Module:
    layers = nn.Linear(64, 128), nn.Linear(128, 128), nn.Linear(128, 10)
    return nn.Sequential(layers[0], nn.ReLU(), nn.Dropout(0.1), layers[1], nn.ReLU(), layers[2])


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))


def _entry(make: Callable[[], nn.Module], x: Tensor, sequence: str = "", **options: bool) -> Entry:
    """A model of one input; `sequence` names the input whose axis 1 may change."""
    dynamic = {sequence: {1: "sequence"}} if sequence else {}
    return Entry(lambda: (make(), (x.clone(),)), dynamic, **options)


PLAIN = {
    "MLP": _entry(_mlp, noise(2, 64)),
    "LeNet": _entry(LeNet, noise(2, 1, 28, 28)),
    "UNet": _entry(lambda: UNet(16), image(32)),
    "MLP-Mixer": _entry(lambda: Mixer(32, 2, patches=16, with_einsum=True), image(32)),
    "TransformerEncoder": _entry(_encoder, noise(2, 12, 64), "src"),
    "MultiheadAttention": _entry(Attention, noise(2, 12, 64), "x"),
    "LSTM": _entry(Recurrent, noise(2, 12, 16), "x"),
    "raw parameters": _entry(RawParameters, noise(2, 32)),
    "tied head": _entry(Tied, torch.arange(14).reshape(2, 7), "ids"),
    "weight used twice": _entry(Autoencoder, noise(2, 32)),
    "weight norm, spectral norm": _entry(Normed, noise(2, 8, 20)),
    "old weight norm": _entry(OldNormed, noise(2, 16)),
    "lazy layers": _entry(_lazy, image(8)),
    "data-dependent": _entry(DataDependent, noise(2, 32), exports=False),
}
