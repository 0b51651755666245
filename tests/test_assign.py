"""The planner over whole models: one budget for all layers, speed, rules, scores."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsify as sp
from sparsify.config import Budget, Rule
from sparsify.fabric import Fabric
from sparsify.plan import Plan, Site
from sparsify.select.assign import Demand, assign
from sparsify.select.criterion import Criterion
from sparsify.select.ladder import Conditions


class Clock:
    """A machine whose seconds are known: so many per weight and row, and some per call."""

    def __init__(self, dense: float = 1e-9, fabric: float = 4e-9, call: float = 1e-5) -> None:
        self.rates = (dense, fabric, call)

    def site(self, site: Site, fabric: Fabric | None) -> float:
        dense, sparse, call = self.rates
        rows = site.rows or 1
        if fabric is None:
            return site.calls * (call + dense * rows * site.dense_parameters)
        stages = len(fabric.stages)
        return site.calls * (call * stages + sparse * rows * fabric.parameters)


class Block(nn.Module):
    """Attention and an MLP, as in a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x)
        x = x + self.o(y)
        return x + self.down(torch.relu(self.up(x)))


def _model(width: int = 128, depth: int = 3) -> nn.Module:
    return nn.Sequential(*(Block(width) for _ in range(depth)))


_X = (torch.zeros(1, 4, 128),)


def _kept(plan: Plan) -> int:
    return sum(site.parameters for site in plan.replaced)


def _demands(count: int, seed: int) -> list[Demand]:
    rng = random.Random(seed)
    sizes = [(rng.choice((96, 128, 256, 320)), rng.choice((64, 128, 512))) for _ in range(5)]
    return [
        Demand(Site(f"layer{i}", "linear", *rng.choice(sizes), rows=8), "auto", i)
        for i in range(count)
    ]


def _total(demands: list[Demand], budget: float) -> tuple[int, int]:
    """Weights kept, and dense ones, of the layers that got a fabric."""
    answers = assign(demands, Conditions(Budget(parameters=budget), Criterion()))
    pairs = [
        (d.site, a.fabric) for d, a in zip(demands, answers, strict=True) if not isinstance(a, str)
    ]
    return sum(f.parameters for _, f in pairs), sum(s.dense_parameters for s, _ in pairs)


@pytest.mark.parametrize("seed", range(3))
def test_a_budget_is_used_to_within_three_per_cent(seed: int) -> None:
    demands = _demands(24, seed)
    for budget in (0.06, 0.1, 0.17, 0.25, 0.4):
        kept, dense = _total(demands, budget)
        assert dense == sum(demand.site.dense_parameters for demand in demands)
        assert 0.97 * budget * dense <= kept <= budget * dense


@pytest.mark.parametrize("budget", [0.06, 0.1, 0.25, 0.5])
def test_the_budget_of_a_model(budget: float) -> None:
    plan = sp.plan(_model(), _X, budget=budget)
    assert len(plan.replaced) == 18
    assert 0.97 * budget <= plan.density <= budget


def test_more_budget_never_means_less() -> None:
    demands = _demands(6, 9)
    kept = [_total(demands, 0.08 * 1.15**step)[0] for step in range(14)]
    assert all(after >= 0.97 * before for before, after in itertools.pairwise(kept))
    assert kept[-1] > 4 * kept[0]


def test_a_thousand_layers() -> None:
    demands = _demands(1000, 1)
    kept, dense = _total(demands, 0.1)
    assert 0.97 * 0.1 * dense <= kept <= 0.1 * dense


def test_small_layers_keep_a_larger_share() -> None:
    """Parameters in proportion to in + out features, not to their product."""
    plan = sp.plan(_model(256, 1), (torch.zeros(1, 4, 256),), budget=0.2)
    density = {site.name: site.parameters / site.dense_parameters for site in plan.replaced}
    assert density["0.q"] > density["0.up"]
    assert density["0.up"] == pytest.approx(density["0.down"], rel=0.2)


def test_layers_alike_get_what_one_alone_gets() -> None:
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(3)), nn.Linear(256, 9))
    plan = sp.plan(model, (torch.zeros(2, 256),), budget=0.125)
    assert {site.fabric for site in plan.replaced} == {sp.fabric("auto", 256, 256, budget=0.125)}


def test_siblings_are_alike() -> None:
    plan = sp.plan(_model(), _X, budget=0.13)
    fabrics = {site.name: site.fabric for site in plan.replaced}
    for block in range(3):
        assert len({fabrics[f"{block}.{name}"] for name in "qkv"}) == 1


def test_a_rule_with_a_budget_has_its_own_pool() -> None:
    rules = [Rule("*.down", budget=0.05), Rule("*.o", topology="low_rank", options={"rank": 3})]
    plan = sp.plan(_model(), _X, budget=0.3, rules=rules)
    pools: dict[str, list[Site]] = {"down": [], "o": [], "": []}
    for site in plan.replaced:
        pools[site.name[2:] if site.name[2:] in pools else ""].append(site)
    for name, budget in (("down", 0.05), ("", 0.3)):
        dense = sum(site.dense_parameters for site in pools[name])
        kept = sum(site.parameters for site in pools[name])
        assert 0.9 * budget * dense <= kept <= budget * dense, name
    assert {site.fabric.family for site in pools["o"] if site.fabric} == {"low_rank(rank=3)"}


def test_a_rule_sets_the_family_within_the_common_budget() -> None:
    plan = sp.plan(_model(), _X, budget=0.3, rules=[Rule("*.up", topology="low_rank")])
    families = {s.name: s.fabric.family.partition("(")[0] for s in plan.replaced if s.fabric}
    assert {families[f"{block}.up"] for block in range(3)} == {"low_rank"}
    assert "low_rank" not in {
        family for name, family in families.items() if not name.endswith("up")
    }
    assert plan.density <= 0.3


# --- seconds -------------------------------------------------------------------------------------


def _timed(budget: Budget, clock: Clock, **more: Any) -> list[Any]:
    demands = _demands(12, 3)
    conditions = Conditions(budget, Criterion(), latency=clock, **more)  # type: ignore[arg-type]
    answers = assign(demands, conditions)
    return [
        (d.site, None if isinstance(a, str) else a.fabric, a if isinstance(a, str) else a.reason)
        for d, a in zip(demands, answers, strict=True)
    ]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.2])
def test_a_budget_of_seconds(share: float) -> None:
    clock = Clock(call=1e-7)
    dense = sum(clock.site(demand.site, None) for demand in _demands(12, 3))
    answers = _timed(Budget(latency_s=share * dense), clock)
    spent = sum(clock.site(site, fabric) for site, fabric, _ in answers)
    assert spent <= share * dense
    assert spent > 0.95 * min(share, 1.0) * dense
    if share > 1:
        assert all(fabric is None for _, fabric, _ in answers)
        assert {reason for *_, reason in answers} == {"dense is within the budget of seconds"}


def test_seconds_and_parameters_hold_together() -> None:
    clock = Clock(call=1e-7)
    dense = sum(clock.site(demand.site, None) for demand in _demands(12, 3))
    answers = _timed(Budget(parameters=0.3, latency_s=0.5 * dense), clock)
    assert sum(clock.site(site, fabric) for site, fabric, _ in answers) <= 0.5 * dense
    kept = sum(fabric.parameters for _, fabric, _ in answers)
    assert kept <= 0.3 * sum(site.dense_parameters for site, *_ in answers)


def test_seconds_start_from_the_fastest_not_from_the_smallest() -> None:
    """Calls are dear on this machine, so one-stage fabrics are fast and small ones slow."""
    clock = Clock(call=1e-3)
    fastest = sum(clock.site(demand.site, None) for demand in _demands(12, 3))
    answers = _timed(Budget(parameters=0.5, latency_s=1.2 * fastest), clock)
    assert sum(clock.site(site, fabric) for site, fabric, _ in answers) <= 1.2 * fastest


def test_a_budget_of_seconds_that_nothing_meets() -> None:
    with pytest.raises(sp.BudgetError, match=r"predicted to take .* s; got the budget latency_s"):
        _timed(Budget(latency_s=1e-9), Clock())


def test_layers_that_gain_no_speed_stay_dense() -> None:
    answers = _timed(Budget(parameters=0.25), Clock(call=1e-7), min_speedup=1.5)
    for site, fabric, _ in answers:
        assert fabric is None or Clock(call=1e-7).site(site, None) >= 1.5 * Clock(call=1e-7).site(
            site, fabric
        )
    slow = _timed(Budget(parameters=0.25), Clock(call=1.0), min_speedup=1.5)
    assert all(fabric is None for _, fabric, _ in slow)
    assert "no fabric is predicted 1.5 times as fast as dense" in slow[0][2]


@pytest.mark.parametrize("request_", [{"budget": Budget(latency_s=1.0)}, {"min_speedup": 1.0}])
def test_seconds_need_inputs(request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsify.bench.latency_model", Clock)
    with pytest.raises(sp.ConfigError, match="give example_inputs"):
        sp.plan(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9)), **request_)
    plan = sp.plan(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9)), (torch.zeros(512, 64),),
                   **{"budget": 0.2, **request_})  # fmt: skip
    assert plan.sites[0].rows == 512


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "fast"])
def test_bad_speeds(value: Any) -> None:
    with pytest.raises(sp.ConfigError, match="min_speedup must be a number above 0"):
        sp.plan(_model(), _X, min_speedup=value)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "1 s", True])
def test_bad_seconds(value: Any) -> None:
    with pytest.raises(sp.ConfigError, match="latency_s must be seconds above 0"):
        Budget(latency_s=value)


# --- what a plan tells ---------------------------------------------------------------------------


def test_rivals_travel_with_the_plan() -> None:
    plan = sp.plan(_model(), _X, budget=0.25)
    for site in plan.replaced:
        assert "default score" in site.reason
        assert {rival.family.partition("(")[0] for rival in site.rivals} >= {"low_rank"}
    assert Plan.from_json(plan.to_json()) == plan
    for rival in plan.replaced[0].rivals:
        assert dataclasses.asdict(rival)["why"]


def test_the_table_of_rivals_has_every_kind_of_layer_once() -> None:
    plan = sp.plan(_model(), _X, budget=0.25)
    rows = plan.rivals()
    kinds = {(row["shape"], row["chosen"]) for row in rows}
    sites = {
        (f"{s.in_features} -> {s.out_features}", s.fabric.family) for s in plan.replaced if s.fabric
    }
    assert kinds == sites
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    assert {row["why not"] for row in rows} >= {"not every input reaches every output"}


def test_a_score_for_a_whole_plan() -> None:
    plan = sp.plan(_model(), _X, budget=0.25, score="reconstruction")
    assert "reconstruction score" in plan.replaced[0].reason
    with pytest.raises(sp.ConfigError, match="Did you mean 'isometry'"):
        sp.plan(_model(), _X, score="isometri")
