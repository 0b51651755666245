"""The purity check notices what it should: a check that cannot fail proves nothing."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.purity import untouched


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def _write(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight[0, 0] += 1


def _swap(model: nn.Sequential) -> None:
    model[0] = nn.Linear(3, 3)


def _reparametrize(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "a weight": _write,
    "an equal copy of a weight": _reparametrize,
    "a module": _swap,
    "a buffer": lambda model: model(torch.zeros(2, 3)),
    "the mode": lambda model: model.eval(),
    "the mode of one layer": lambda model: model[1].eval(),
    "the dtype": lambda model: model.double(),
    "requires_grad": lambda model: model[0].bias.requires_grad_(False),
    "a gradient": lambda model: model[0](torch.zeros(2, 3)).sum().backward(),
    "a hook": lambda model: model[0].register_forward_hook(lambda *_: None),
    "an attribute": lambda model: setattr(model, "note", 1),
    "torch's generator": lambda _: torch.rand(1),
    "numpy's generator": lambda _: np.random.rand(),
    "Python's generator": lambda _: random.random(),
    "the warnings filters": lambda _: warnings.simplefilter("ignore", BytesWarning),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: str) -> None:
    model = _model()
    with (
        warnings.catch_warnings(),
        pytest.raises(AssertionError, match=r"changed:\n  .* -> "),
        untouched(model),
    ):
        CHANGES[change](model)


def test_global_settings_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logging.NullHandler()

    def change() -> None:
        monkeypatch.setenv("SOME_NAME", "1")
        logging.getLogger().addHandler(handler)

    with pytest.raises(AssertionError, match=r"environment.*\n.*root logger"), untouched():
        change()
    logging.getLogger().removeHandler(handler)


def test_reading_is_allowed() -> None:
    model = _model().eval()
    with untouched(model):
        model(torch.zeros(2, 3))
        torch.Generator().manual_seed(0)


def test_models_without_content_are_allowed() -> None:
    with torch.device("meta"):
        model = _model()
    with untouched(model, nn.LazyLinear(3)):
        pass
