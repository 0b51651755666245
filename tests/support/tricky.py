"""Models that share, hook, hide, freeze or never use their layers, by name.

Each comes with inputs and with what must become of its layers: None where the layer is replaced,
else a part of the reason why it is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm

WIDTH = 64
ABSENT = "<absent>"
OUTSIDE = "used outside a layer that a fabric can stand for"
Inputs = tuple[Any, ...] | dict[str, Any]
Case = tuple[nn.Module, Inputs, dict[str, str | None]]


class Body(nn.Module):
    """Two layers and a head; the cases below vary it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)

    def middle(self, x: Tensor) -> Tensor:
        return torch.relu(self.two(torch.relu(self.one(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(x))


PLAIN: dict[str, str | None] = {"one": None, "two": None, "head": "final head"}
RECURRENT = {**PLAIN, "lstm.input_l0": None, "lstm.hidden_l0": None}
X = (torch.zeros(2, WIDTH),)


def _case(expected: dict[str, str | None], change: Callable[[Body], object]) -> Case:
    model = Body()
    change(model)
    return model, X, {**PLAIN, **expected}


class TiedEmbedding(Body):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, WIDTH)
        self.head = nn.Linear(WIDTH, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.embed(x))


class ReadsWeight(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.one.weight.sum()


class Functional(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + functional.linear(x, self.two.weight.t()))


class Twice(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.one(self.one(x)))


class Branching(Body):
    """Which way is taken depends on data, which fake tensors do not have."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.head(self.two(x))
        return super().forward(x) * float(x.mean().item())


class TwoHeads(Body):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.middle(x)
        return {"logits": self.head(y).softmax(-1), "value": self.other(y)}


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class PlainOutput(Body):
    def forward(self, x: Tensor, *, scale: float = 1.0) -> Output:  # type: ignore[override]
        return Output(super().forward(x * scale))


class Unused(Body):
    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(WIDTH, WIDTH)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH)
        self.pointwise = nn.Conv2d(WIDTH, 128, 1)
        self.grouped = nn.Conv2d(128, 128, 3, groups=2, stride=2)
        self.many = nn.Conv2d(128, 128, 3, groups=8)
        self.up = nn.ConvTranspose2d(128, 32, 2, 2)
        self.out = nn.Conv2d(32, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(self.depthwise(self.stem(x)))
        return self.out(self.up(self.many(self.grouped(y))))


class RawParameter(Body):
    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x @ self.raw)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Richer(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))


class UsesRicher(Body):
    def __init__(self) -> None:
        super().__init__()
        self.one = Richer()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.one.scale


class Noting(Body):
    """A hook that is a method of the model, and one that changes the output."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.one.register_forward_hook(self.note)
        self.two.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))

    def note(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen.append(type(module).__name__)


def _tied_pair(model: Body) -> None:
    model.two.weight = model.one.weight


def _tied_view(model: Body) -> None:
    model.two.weight = nn.Parameter(model.one.weight.detach().view(WIDTH, WIDTH))


def _old_weight_norm(model: Body) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model.one)


def _complex() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(2))).to(torch.complex64)


def _two_paths(model: Body) -> None:
    model.alias = nn.ModuleDict({"of": model.one})


def _shared_bias(model: Body) -> None:
    model.two.bias = model.one.bias


def _own_forward(model: Body) -> None:
    plain = model.one.forward
    model.one.forward = lambda x: 2 * plain(x)  # type: ignore[method-assign]


class Attention(Body):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.attention(x, x, x)[0])


class Recurrent(Body):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.lstm(x)[0])


def _plain(model: nn.Module, expected: dict[str, str | None], *shape: int) -> Case:
    return model, (torch.zeros(shape or (2, WIDTH)),), expected


CASES: dict[str, Callable[[], Case]] = {
    "plain": lambda: _case({}, lambda m: None),
    "frozen": lambda: _case({}, lambda m: m.requires_grad_(False)),
    "no bias": lambda: _case({}, lambda m: m.one.register_parameter("bias", None)),
    "tied to an embedding": lambda: (
        TiedEmbedding(),
        (torch.zeros(2, 7, dtype=torch.long),),
        {**PLAIN, "head": "tied to embed.weight"},
    ),
    "tied layers": lambda: _case({"one": "tied to two.weight", "two": "tied to one"}, _tied_pair),
    "tied through a view": lambda: _case({"one": "tied to two", "two": "tied to one"}, _tied_view),
    "one bias for two": lambda: _case({}, _shared_bias),
    "weight read elsewhere": lambda: (ReadsWeight(), X, {**PLAIN, "one": "also read by aten.sum"}),
    "weight in another product": lambda: (
        Functional(), X, {**PLAIN, "two": "also read by aten.", "two.weight": OUTSIDE}
    ),
    "at two paths": lambda: _case({}, _two_paths),
    "called twice": lambda: (Twice(), X, PLAIN),
    "hooks": lambda: (Noting(), X, PLAIN),
    "weight norm": lambda: _case({}, lambda m: parametrizations.weight_norm(m.one)),
    "old weight norm": lambda: _case({}, _old_weight_norm),
    "old spectral norm": lambda: _case(
        {"one": "held by spectral_norm"}, lambda m: old_spectral_norm(m.one)
    ),
    "pruned": lambda: _case(
        {"one": "pruned"}, lambda m: prune.l1_unstructured(m.one, "weight", amount=0.5)
    ),
    "complex": lambda: (
        _complex(),
        (torch.zeros(2, WIDTH, dtype=torch.complex64),),
        {"0": "of type complex64", "1": "of type complex64"},
    ),
    "subclass with its own forward": lambda: _case(
        {"one": ABSENT, "one.weight": None}, lambda m: setattr(m, "one", Scaled(WIDTH, WIDTH))
    ),
    "instance with its own forward": lambda: _case(
        {"one": ABSENT, "one.weight": OUTSIDE}, _own_forward
    ),
    "subclass with more parameters": lambda: (
        UsesRicher(), X, {**PLAIN, "one": "more than a weight and a bias: 'scale'"}
    ),
    "multi-head attention": lambda: (
        Attention(),
        (torch.zeros(2, 5, WIDTH),),
        {
            **PLAIN,
            **{f"attention.{name}_proj": None for name in ("q", "k", "v", "out")},
        },
    ),
    "transformer encoder layer": lambda: (
        nn.Sequential(
            nn.TransformerEncoderLayer(WIDTH, 4, 128, batch_first=True), nn.Linear(WIDTH, 9)
        ),
        (torch.zeros(2, 5, WIDTH),),
        {
            **{f"0.self_attn.{name}_proj": None for name in ("q", "k", "v", "out")},
            "0.linear1": None, "0.linear2": None, "1": "final head",
        },
    ),
    "recurrent": lambda: (Recurrent(), (torch.zeros(2, 5, WIDTH),), RECURRENT),
    "raw parameter": lambda: (RawParameter(), X, {**PLAIN, "raw": None}),
    "control flow on data": lambda: (
        Branching(), X, {"one": None, "two": None, "head": "final head"}
    ),
    "control flow, the other way": lambda: (
        Branching(), (torch.ones(2, WIDTH),), {**PLAIN, "one": "not used in the recorded run"}
    ),
    "unused": lambda: (Unused(), X, {**PLAIN, "never": "not used in the recorded run"}),
    "two heads": lambda: (TwoHeads(), X, {**PLAIN, "other": "final head"}),
    "output of the user's own class": lambda: (
        PlainOutput(), {"x": torch.zeros(2, WIDTH), "scale": 2.0}, PLAIN
    ),
    "tiny": lambda: _plain(
        nn.Sequential(*(nn.Linear(i, o) for i, o in ((8, 64), (64, 64), (64, 31), (31, 64)))),
        {"0": "only 8 inputs", "1": None, "2": "only 31 outputs", "3": "final head"},
        2, 8,
    ),
    "convolutions": lambda: _plain(
        Convolutions(),
        {
            "stem": "only 3 inputs", "depthwise": "depthwise", "pointwise": None, "grouped": None,
            "many": "only 16 inputs per group", "up": None,
            "out": "final head",
        },
        2, 3, 12, 12,
    ),
    "one layer alone": lambda: _plain(nn.Linear(WIDTH, WIDTH), {"": None}),
    "batch norm and dropout": lambda: _plain(
        nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(), nn.Linear(WIDTH, 4)
        ),
        {"0": None, "3": "final head"},
        3, WIDTH,
    ),
}  # fmt: skip
