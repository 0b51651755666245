"""Depth and the papers' claims: the benchmarks learn, ask for the right trainings and report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsify as sp
from tests.support.benchmarks import module, trial

NAMES = ("depth", "claims.closnets", "claims.sparse_topologies", "claims.neurofabric")


def accuracy_of(
    net: str = "tanh", arm: str = "monarch", init: str = "orthogonal", **change: Any
) -> float:
    point = {"net": net, "arm": arm, "init": init, "depth": 32, "steps": 40, "seed": 0}
    found: dict[str, Any] = module("depth").run(**{**point, "lr": 0.002, **change})
    return float(found["accuracy"])


@pytest.mark.parametrize("net", ["tanh", "ReLU, mirrored pairs", "ReLU, scaled shortcuts"])
def test_deep_networks_learn(net: str) -> None:
    assert accuracy_of(net) > 0.85


def test_deep_networks_do_not_learn_from_what_pytorch_draws() -> None:
    assert accuracy_of(init="default") < 0.3


def test_signals_vanish_as_theory_says() -> None:
    """PyTorch's variance is a third of what keeps a signal, for each of two factors."""
    depth = module("depth")
    model = depth.make("linear", "monarch", "default", 12, 0)
    for layer in model[:-1]:
        if isinstance(layer, sp.nn.FabricLinear):
            nn.init.zeros_(layer.bias)
    features = model[:-1](torch.randn(4096, 64))
    assert math.log(features.var().item(), 9) == pytest.approx(-12, abs=0.7)


@pytest.mark.parametrize("net", ["tanh", "ReLU, mirrored pairs", "leaky ReLU, tailored slope"])
def test_twins_have_as_many_weights(net: str) -> None:
    depth = module("depth")
    fabric, narrow = (
        depth.weights(depth.make(net, arm, "orthogonal", 32, 0))
        for arm in ("monarch", "narrow dense")
    )
    assert narrow == pytest.approx(fabric, rel=0.05)


def result_of(name: str, point: dict[str, Any]) -> dict[str, Any]:
    """Made up: best at twice the rate where the search begins."""
    if name == "claims.neurofabric":
        return dict(module(name).run("monarch", 16, 0.5))
    if name == "depth":
        first = module(name).rule(point, 0)["lr"]
        loss = 1 + abs(math.log2(point["lr"] / first / 2))
        return {"validation": loss, "accuracy": 1 / loss, "weights": 1000, "signal": 1.0}
    loss = 1 + abs(math.log2(point["lr"] / module("claims.bulk").FIRST[point["task"]] / 2))
    loss += len(point.get("graphs", "")) / 100 - point.get("degree", 0) / 50
    scores = {"degree": point.get("degree"), "spectral_gap": -loss, "algebraic_connectivity": 0.5}
    return {"losses": [loss] * 5, "weights": point.get("budget"), **scores}


def all_of(name: str, quick: bool) -> list[sp.Trial]:
    found: list[sp.Trial] = []
    for _ in range(20):
        wanted = module(name).points(found, quick)
        wanted = [p for p in wanted if p not in [t.point for t in found]]
        if not wanted:
            return found
        found += [trial(point, **result_of(name, point)) for point in wanted]
    raise AssertionError("the benchmark never ends")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_benchmarks_end_and_report(name: str, quick: bool, tmp_path: Path) -> None:
    benchmark, found = module(name), all_of(name, quick)
    if name != "claims.neurofabric" and not quick:
        assert len({trial.point["lr"] for trial in found}) > 3
    table = benchmark.table(found)
    assert table.count("|\n") > 3
    assert "nan" not in table
    benchmark.figure(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_the_seed_that_chose_the_rate_is_not_reported() -> None:
    bulk = module("claims.bulk")
    cell = {"task": "fabrics", "steps": 9}
    found = [
        trial({**cell, "lr": 0.1}, losses=[0.0, 2.0, 2.0, 3.0, 3.0], weights=1),
        trial({**cell, "lr": 0.2}, losses=[0.5, 1.0, 1.0, 1.0, 1.0], weights=1),
    ]
    assert bulk.final(cell, found)["loss"] == 2.5


@pytest.mark.parametrize("setting", ["clos 8.4", "narrow dense"])
def test_students_learn(setting: str) -> None:
    found = module("claims.closnets").run("fabrics", setting, 768, 60, 0.03)
    assert max(found["losses"]) < 0.95
    assert found["weights"] == 1536


def test_sizes_lie_on_the_curve() -> None:
    closnets = module("claims.closnets")
    curve = [{"weights": 100, "loss": 2.0}, {"weights": 400, "loss": 1.0}]
    assert closnets.size_at(curve, 1.5) == pytest.approx(200)
    assert closnets.size_at(curve, 2.5) == 100
    assert closnets.size_at(curve, 0.5) is None


def test_families_of_settings() -> None:
    family = module("claims.closnets").family_of
    names = ("clos 8.4", "clos, uneven 4.2.16", "butterfly, twice 4.4.4", "blocks, aligned 6")
    assert [family(name) for name in names] == ["clos", "clos", "butterfly", "blocks, aligned"]


def test_graphs_are_as_dense_as_they_are_called() -> None:
    topologies = module("claims.sparse_topologies")
    for degree in topologies.DEGREES:
        for _, pair in topologies.pairs(degree):
            assert all(stage.parameters == degree * 64 for stage in pair)


def test_connectivity_is_that_of_both_layers() -> None:
    run = module("claims.sparse_topologies").run
    gaps = {
        name: run("digits", name, 8, 1, 0.01)["spectral_gap"]
        for name in ("blocks, aligned", "blocks, strided")
    }
    assert gaps == {"blocks, aligned": 0, "blocks, strided": pytest.approx(1)}


def test_requirements_of_neurofabric() -> None:
    """Sixty-four features: a Clos of eight paths has all; low rank lacks rank and bandwidth."""
    fabric = module("claims.neurofabric")
    clos, low = (fabric.run(family, 64, 0.375) for family in ("clos", "low_rank"))
    assert fabric.met(clos, 64) == list(fabric.REQUIREMENTS)
    assert fabric.met(low, 64) == ["diverse", "symmetric", "shallow"]
    assert fabric.run("butterfly", 64, 0.01) == {"fabric": None}
