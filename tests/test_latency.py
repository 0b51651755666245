"""The latency model on machines made up for it: closed forms, order, JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify.errors import ConfigError
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.select.latency import LatencyModel, Measured
from sparsify.select.terms import CONVOLUTION, DENSE, FABRIC, GRAPH
from sparsify.site import Site
from sparsify.topology.clos import Clos
from sparsify.topology.monarch import Monarch

ROWS = (1, 16, 128, 1024)
RATE = 5e9  # multiply-adds per second of the machine that only multiplies


def _model(**laws: Any) -> LatencyModel:
    fields: dict[str, Any] = {
        "device": "paper",
        "threads": 1,
        "dtype": "float32",
        "kernels": ("Portable", "Portable"),
        "versions": ("torch 2", "sparsify 1"),
        "rows": ROWS,
        "dense_costs": tuple(_costs(DENSE, weights=rows / RATE) for rows in ROWS),
        "fabric_costs": tuple(_costs(FABRIC, weights=rows / RATE) for rows in ROWS),
        "graph_costs": _costs(GRAPH),
        "convolution_costs": _costs(
            CONVOLUTION,
            **{f"{kind} multiply-adds": 1 / RATE for kind in ("spatial", "pointwise", "mixing")},
        ),
    }
    return LatencyModel(**{**fields, **laws})


def _costs(counts: tuple[str, ...], **costs: float) -> tuple[float, ...]:
    assert set(costs) <= set(counts)
    return tuple(costs.get(name, 0.0) for name in counts)


MULTIPLIER = _model()


def _rough() -> LatencyModel:
    """A machine with a cost for everything, cheaper per row where there are more."""
    random = np.random.default_rng(0)
    draw = {
        len(names): random.uniform(0.5, 2, len(names)) * 1e-9
        for names in (DENSE, FABRIC, GRAPH, CONVOLUTION)
    }
    growth = [1.0, 3.0, 2.0, 40.0]  # falls once, as noise does
    return _model(
        dense_costs=tuple(tuple(draw[len(DENSE)] * g) for g in growth),
        fabric_costs=tuple(tuple(draw[len(FABRIC)] * g) for g in growth),
        graph_costs=tuple(draw[len(GRAPH)]),
        convolution_costs=tuple(draw[len(CONVOLUTION)]),
    )


ROUGH = _rough()
FABRICS = (
    Monarch(blocks=8).build(64, 128),
    Clos(ingress=4, middle=3).build(60, 52),
    Fabric(16, 16, ((Stage(4, 4, 4, 1), Shuffle(16, seed=1), Stage(1, 4, 4, 4)),) * 2),
    Fabric(16, 16, ((GraphStage("random", 16, 16, 4, seed=1), Stage(4, 4, 4, 1)),)),
)


# --- a machine that only multiplies takes FLOPs over its rate -------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 16, 77, 1024, 5000])
def test_linear_time_is_work_over_rate(rows: int) -> None:
    work = 48 * 80 * rows
    assert MULTIPLIER.dense(48, 80, rows) == pytest.approx(work / RATE)
    fabric = Monarch(blocks=8).build(64, 128)
    assert MULTIPLIER.fabric(fabric, rows) == pytest.approx(fabric.parameters * rows / RATE)


@pytest.mark.parametrize(
    "site",
    [
        Site("l", "linear", 64, 64, rows=40, calls=3),
        Site("l", "linear", 64, 64, groups=4, rows=40),
        Site("c", "conv2d", 64, 64, (3, 3), rows=49, in_rows=196, calls=2),
        Site("c", "conv2d", 64, 64, (3, 3), groups=4, rows=196),
        Site("c", "conv1d", 64, 64, (5,), rows=30),
        Site("c", "conv2d", 64, 64, (1, 1), rows=49, in_rows=196),
        Site("c", "conv3d", 64, 64, (3, 3, 3), groups=64, rows=64),
        Site("u", "conv_transpose2d", 64, 64, (2, 2), rows=196, in_rows=49, calls=2),
        Site("u", "conv_transpose1d", 64, 64, (3,), groups=2, rows=100, in_rows=50),
        Site("u", "conv_transpose2d", 64, 64, (1, 1), rows=196, in_rows=49),
    ],
    ids=lambda site: f"{site.kind}-{site.groups}",
)
def test_site_time_is_flops_over_rate(site: Site) -> None:
    assert MULTIPLIER.site(site, None) == pytest.approx(site.dense_flops / 2 / RATE)
    small, large = Stage(16, 4, 4, 1), Stage(4, 16, 16, 1)
    for stages in ((small, large), (large, small)):  # the smaller one takes the taps
        fabric = Fabric(64, 64, (stages,)).with_kernel(site.kernel)
        assert MULTIPLIER.site(site, fabric) == pytest.approx(site.flops_of(fabric) / 2 / RATE)


def test_site_that_is_not_called_takes_no_time() -> None:
    assert ROUGH.site(Site("l", "linear", 8, 8, calls=0), None) == 0.0


def test_unknown_rows_ask_for_example_inputs() -> None:
    with pytest.raises(ConfigError, match=r"time of fc1 .*Give example_inputs"):
        ROUGH.site(Site("fc1", "linear", 8, 8), None)


# --- graph stages are scattered, then multiplied as dense matrices --------------------------------


def test_graph_stage_costs_a_scatter_and_a_dense_product() -> None:
    names = {"dense weights": 1e-3, "weights": 1e-6, "multiply-adds": 1 / RATE}
    model = _model(graph_costs=_costs(GRAPH, calls=1.0, **names))
    fabric = Fabric(32, 16, ((GraphStage("random", 32, 16, 4, seed=1),),))
    extra = 1 + 1e-3 * 32 * 16 + 1e-6 * 16 * 4
    assert model.fabric(fabric, 10) == pytest.approx(extra + model.dense(32, 16, 10))
    assert model.fabric(fabric, 10) > model.dense(32, 16, 10)


def test_graph_stages_of_a_convolution_see_the_image_of_their_place() -> None:
    model = _model(graph_costs=_costs(GRAPH, calls=1.0))
    before = GraphStage("random", 16, 16, 4, seed=1)
    spatial = GraphStage("random", 16, 16, 4, seed=2, kernel=(3, 3))
    after = GraphStage("random", 16, 16, 4, seed=3)
    fabric = Fabric(16, 16, ((before, spatial, after),))
    work = 16 * 16 * (100 + 9 * 25 + 25)  # positions: input, then output
    assert model.convolution_fabric(fabric, 25, 100) == pytest.approx(3 + work / RATE)
    back = 16 * 16 * (25 + 9 * 25 + 100)
    assert model.convolution_fabric(fabric, 100, 25, True) == pytest.approx(3 + back / RATE)


# --- order ----------------------------------------------------------------------------------------


@given(st.sampled_from(FABRICS), st.integers(1, 5000), st.integers(0, 5000))
def test_time_is_positive_and_never_falls_with_rows(fabric: Fabric, rows: int, more: int) -> None:
    for time in (
        lambda count: ROUGH.fabric(fabric, count),
        lambda count: ROUGH.dense(fabric.in_features, fabric.out_features, count),
        lambda count: ROUGH.convolution_fabric(fabric, count, 2 * count),
        lambda count: ROUGH.convolution(16, 16, 9, 4, count, count),
    ):
        assert 0 < time(rows) <= time(rows + more) * (1 + 1e-12) < math.inf


def test_every_count_matters() -> None:
    """Each law's time grows by what a count is worth, so no count is computed in vain."""
    fabric = Fabric(
        24,
        24,
        (
            (Stage(2, 4, 4, 4), Shuffle(32, seed=1), Stage(1, 4, 4, 8)),
            (Stage(2, 16, 16, 1),),
        ),
    )
    for place, name in enumerate(FABRIC):
        alone = tuple(float(i == place) for i in range(len(FABRIC)))
        assert _model(fabric_costs=(alone,) * 4).fabric(fabric, 1) > 0, name
    conv = Fabric(24, 24, ((Stage(2, 4, 4, 4), Shuffle(32, seed=1), Stage(1, 4, 4, 8, (3, 3))),))
    for place, name in enumerate(CONVOLUTION):
        alone = tuple(float(i == place) for i in range(len(CONVOLUTION)))
        model = _model(convolution_costs=alone)
        dense = model.convolution(8, 8, 1, 1, 9, 9)
        assert model.convolution_fabric(conv, 9, 9) + dense > 0, name


# --- as data --------------------------------------------------------------------------------------


def _held_out(*errors: float) -> tuple[Measured, ...]:
    site = Site("", "linear", 64, 128, rows=4, fabric=FABRICS[0])
    return tuple(Measured(site, 2e-5, 2e-5 * (1 + error)) for error in errors)


def test_json_round_trip() -> None:
    dense = Measured(Site("", "linear", 8, 8, rows=4).kept("dense"), 1e-5, 1.1e-5)
    model = replace(ROUGH, held_out=(*_held_out(0.1, -0.2), dense))
    back = LatencyModel.from_json(model.to_json())
    assert back == model
    assert back.fabric(FABRICS[1], 50) == model.fabric(FABRICS[1], 50)


def test_error_is_the_quantiles_of_absolute_errors() -> None:
    errors = [0.5, -0.1, 0.2, -0.3]
    model = replace(ROUGH, held_out=_held_out(*errors))
    assert model.error.median == pytest.approx(np.quantile(np.abs(errors), 0.5))
    assert model.error.p90 == pytest.approx(np.quantile(np.abs(errors), 0.9))
    assert math.isnan(ROUGH.error.median)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rows", [16, 1], "ascend"),
        ("rows", [], "ascend"),
        ("graph_costs", [1e-9], "has 1 times 6 costs"),
        ("graph_costs", [-1e-9] * 6, "0 or more"),
        ("graph_costs", [math.nan] * 6, "0 or more"),
        ("dense_costs", [[1e-9]], "has 4 times 7 costs"),
        ("convolution_costs", "many", "no latency model|costs"),
        ("colour", "red", "no latency model"),
        ("held_out", [{"measured": 1}], "no latency model"),
    ],
)
def test_wrong_data_is_refused(key: str, value: Any, words: str) -> None:
    data = {**json.loads(ROUGH.to_json()), key: value}
    with pytest.raises(ConfigError, match=words):
        LatencyModel.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        LatencyModel.from_json(text)
