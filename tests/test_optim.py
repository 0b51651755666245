"""`param_groups`: the rule in numbers, and every parameter exactly once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import sparsify as sp
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage, Weighted
from sparsify.optim import MOST

LR, DECAY = 1e-3, 0.1


def _of(groups: list[dict[str, Any]], parameter: nn.Parameter) -> dict[str, Any]:
    (group,) = [g for g in groups if any(p is parameter for p in g["params"])]
    return group


def _linear(inputs: int, outputs: int, *stages: Weighted) -> sp.nn.FabricLinear:
    return sp.nn.FabricLinear(Fabric(inputs, outputs, (stages,)))


@pytest.mark.parametrize(
    ("layer", "rates"),
    [
        # lr * n / (d * L): Monarch of 8 blocks, 64 / (8 * 2) in both stages
        (_linear(64, 64, Stage(8, 8, 8, 1), Stage(1, 8, 8, 8)), (4, 4)),
        # blocks of unlike size: 96 / (24 * 2) and 96 / (12 * 2)
        (_linear(96, 64, Stage(4, 36, 24, 1), Stage(1, 16, 36, 4)), (2, 96 / 72)),
        # low rank: the first factor is as wide as the dense layer
        (_linear(64, 48, Stage(1, 4, 64, 1), Stage(1, 48, 4, 1)), (0.5, 8)),
        # one stage: 64 / 16
        (_linear(64, 64, Stage(4, 16, 16, 1)), (4,)),
        # three stages: 64 / (4 * 3)
        (_linear(64, 64, Stage(16, 4, 4, 1), Stage(4, 4, 4, 4), Stage(1, 4, 4, 16)), (16 / 3,) * 3),
        # graphs: 64 / (8 * 2) and 64 / (16 * 2)
        (_linear(64, 64, GraphStage("random", 64, 64, 8), GraphStage("xor", 64, 64, 16)), (4, 2)),
        # a graph and blocks: 64 / (6 * 2) and 64 / (16 * 2)
        (
            _linear(64, 64, GraphStage("hypercube", 64, 64, 6), Stage(4, 16, 16, 1)),
            (16 / 3, 2),
        ),
    ],
    ids=["monarch", "rectangular", "low_rank", "blocks", "butterfly", "graphs", "graph, blocks"],
)
def test_rule(layer: sp.nn.FabricLinear, rates: tuple[float, ...]) -> None:
    groups = sp.param_groups(layer, lr=LR, weight_decay=DECAY)
    for factor, rate in zip(layer.factors, rates, strict=True):
        group = _of(groups, factor)
        assert group["lr"] == pytest.approx(LR * rate)
        assert group["weight_decay"] == pytest.approx(DECAY / rate / len(rates))
    plain = _of(groups, layer.bias)
    assert (plain["lr"], plain["weight_decay"], plain["name"]) == (LR, DECAY, "plain")


def test_taps_of_a_convolution_count_on_both_sides() -> None:
    """Dense fan-in 64 * 9; the spatial stage has 8 * 9, the other 8."""
    layer = sp.nn.FabricConv2d(sp.fabric("monarch", 64, 64, blocks=8), 3)
    groups = sp.param_groups(layer, lr=LR)
    for stage, factor in zip(layer.fabric.stages, layer.factors, strict=True):
        rate = min(64 * 9 / (stage.c * math.prod(stage.kernel) * 2), MOST)
        assert _of(groups, factor)["lr"] == pytest.approx(LR * rate)


def test_a_spatial_graph_counts_its_taps() -> None:
    """Dense fan-in 64 * 9; the spatial graph has 16 * 9, its branch one stage."""
    graph = GraphStage("random", 64, 64, 16, kernel=(3, 3))
    layer = sp.nn.FabricConv2d(Fabric(64, 64, ((Shuffle(64, seed=1), graph),)), 3)
    groups = sp.param_groups(layer, lr=LR)
    assert _of(groups, layer.factors[0])["lr"] == pytest.approx(LR * 4)


def test_rates_are_capped() -> None:
    layer = _linear(1024, 1024, Stage(256, 4, 4, 1))  # 1024 / 4 = 256
    assert _of(sp.param_groups(layer, lr=LR), layer.factors[0])["lr"] == pytest.approx(LR * MOST)


def test_decay_of_the_product_is_that_of_the_dense_weight() -> None:
    """Per step the product shrinks by the sum over its factors of rate * decay."""
    layer = _linear(96, 64, Stage(4, 36, 24, 1), Stage(1, 16, 36, 4))
    groups = sp.param_groups(layer, lr=LR, weight_decay=DECAY)
    shrinks = [g["lr"] * g["weight_decay"] for g in (_of(groups, f) for f in layer.factors)]
    assert sum(shrinks) == pytest.approx(LR * DECAY)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.first = _linear(64, 64, Stage(8, 8, 8, 1))
        self.again = self.first
        self.sharing = _linear(64, 64, Stage(8, 8, 8, 1))
        self.sharing.factors[0] = self.first.factors[0]
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 100)
        self.head.weight = self.embed.weight
        self.norm.bias.requires_grad_(False)


def test_every_trainable_parameter_once() -> None:
    model = _Tied()
    groups = sp.param_groups(model, lr=LR)
    seen = [id(p) for g in groups for p in g["params"]]
    assert len(seen) == len(set(seen))
    assert set(seen) == {id(p) for p in model.parameters() if p.requires_grad}
    assert _of(groups, model.first.factors[0])["lr"] == pytest.approx(8 * LR)


def test_a_dense_model_has_one_plain_group() -> None:
    (group,) = sp.param_groups(nn.Linear(4, 4), lr=LR, weight_decay=DECAY)
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (LR, DECAY, 2)


def test_a_frozen_rest_leaves_no_empty_group() -> None:
    layer = _linear(64, 64, Stage(8, 8, 8, 1))
    layer.bias.requires_grad_(False)
    assert [len(g["params"]) for g in sp.param_groups(layer, lr=LR)] == [1]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad", "Adamax"])
def test_any_optimiser_and_scheduler(name: str) -> None:
    layer = _linear(64, 64, Stage(8, 8, 8, 1), Stage(1, 8, 8, 8))
    optimiser = getattr(torch.optim, name)(sp.param_groups(layer, lr=LR))
    rates = [group["lr"] for group in optimiser.param_groups]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5**step)
    before = [p.detach().clone() for p in layer.parameters()]
    layer(torch.ones(3, 64)).square().sum().backward()
    optimiser.step()
    schedule.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    assert [group["lr"] for group in optimiser.param_groups] == [rate / 2 for rate in rates]


def test_one_cycle_takes_the_rates_as_peaks() -> None:
    groups = sp.param_groups(_linear(64, 64, Stage(8, 8, 8, 1)), lr=LR)
    optimiser = torch.optim.AdamW(groups)
    peaks = [group["lr"] for group in groups]
    torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=peaks, total_steps=10)
    assert [group["max_lr"] for group in optimiser.param_groups] == peaks


@pytest.mark.parametrize("lr", [0, -1e-3, math.nan, math.inf, "1e-3", None, True])
def test_bad_rates(lr: Any) -> None:
    with pytest.raises(sp.ConfigError, match=r"lr must be .* got"):
        sp.param_groups(nn.Linear(2, 2), lr=lr)


@pytest.mark.parametrize("decay", [-0.1, math.nan, math.inf, "0.1", None, True])
def test_bad_decays(decay: Any) -> None:
    with pytest.raises(sp.ConfigError, match=r"weight_decay must be .* got"):
        sp.param_groups(nn.Linear(2, 2), lr=LR, weight_decay=decay)


def test_nothing_to_train() -> None:
    with pytest.raises(sp.ConfigError, match="no trainable parameter"):
        sp.param_groups(nn.Linear(2, 2).requires_grad_(False), lr=LR)
    with pytest.raises(sp.ConfigError, match=r"must be a torch\.nn\.Module; got list"):
        sp.param_groups([], lr=LR)  # type: ignore[arg-type]
