"""Models for the command line, by `tests.support.factories:name`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NOT_CALLABLE = 3


def mlp() -> tuple[nn.Module, tuple[Any, ...]]:
    layers = (nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(*layers), (torch.ones(2, 64),)


def without_inputs() -> nn.Module:
    return mlp()[0]


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU())


def without_dense() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.LayerNorm(4))


def only_a_head() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10))


def wrong_inputs() -> tuple[nn.Module, tuple[Any, ...]]:
    return mlp()[0], (torch.ones(2, 65),)


def raising() -> nn.Module:
    raise RuntimeError("the weights of this factory are on another machine")


def interrupted() -> nn.Module:
    raise KeyboardInterrupt


def needs_an_argument(width: int) -> nn.Module:
    return nn.Linear(width, width)


def no_model() -> dict[str, int]:
    return {"a": 1}
