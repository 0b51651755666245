"""Choosing fabrics: regimes, alternation along the graph, budgets of whole models."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sparsify as sp
from sparsify.config import Budget, Rule
from sparsify.fabric import Fabric
from sparsify.plan import Plan, Site
from sparsify.select.candidates import exact_pool
from sparsify.select.choose import choose
from sparsify.select.criterion import Criterion
from sparsify.select.gates import reaches_all
from sparsify.select.score import HIGHER_IS_BETTER, SCORES, score, score_named
from sparsify.select.score.rank import generic_rank
from sparsify.select.strides import alternated
from sparsify.topology import BlockDiagonal, Monarch
from tests.support.fabrics import dense_matrix, random_factors
from tests.support.paths import run_python


def _share(budget: float) -> Callable[[Fabric], float]:
    return lambda fabric: fabric.density / budget


def _family(fabric: Fabric | None) -> str:
    return "" if fabric is None else fabric.family.partition("(")[0]


# --- one layer ---------------------------------------------------------------------------------

# (inputs, outputs, budget, family): what the gates and the score leave in each regime.
REGIMES = [
    (256, 256, 0.02, "block_diagonal"),  # too little for every input to reach every output
    (256, 256, 0.1, "butterfly"),  # three stages do
    (256, 256, 0.125, "monarch"),  # 2 n**1.5 parameters: two stages do
    (256, 256, 0.25, "monarch"),
    (1024, 1024, 0.02, "block_diagonal"),
    (1024, 1024, 0.05, "butterfly"),
    (1024, 1024, 0.0625, "monarch"),
    (4096, 4096, 0.1, "monarch"),
    (768, 3072, 0.1, "monarch"),
    (3072, 768, 0.1, "clos"),
    (64, 64, 0.25, "monarch"),
    (64, 64, 0.1, "block_diagonal"),
    (127, 127, 0.1, "block_diagonal"),
    (127, 127, 0.3, "butterfly"),  # 4 x 32: of two stages too, and of full rank
    (64, 64, 0.01, ""),
    (64, 4096, 0.01, ""),
]


@pytest.mark.parametrize(("inputs", "outputs", "budget", "family"), REGIMES)
def test_the_default_of_each_regime(inputs: int, outputs: int, budget: float, family: str) -> None:
    choice = choose(inputs, outputs, _share(budget))
    assert _family(choice and choice.fabric) == family, choice
    if choice is not None:
        assert choice.fabric.density <= budget
        assert len(choice.fabric.stages) <= 3, "gate: stages"
        assert choice.fabric.width == min(inputs, outputs), "gate: rank"


def _requests(count: int, seed: int, highest: int = 900) -> Iterator[tuple[int, int, float]]:
    """Sizes from 1 on, small ones more often, and budgets of 0.3 % to 90 %."""
    rng = random.Random(seed)
    for _ in range(count):
        inputs, outputs = (rng.randint(1, rng.choice((64, 300, highest))) for _ in range(2))
        yield inputs, outputs, 10 ** rng.uniform(-2.5, -0.05)


def _merits(fabric: Fabric, used: float) -> tuple[bool, int, bool, float]:
    """What the planner promises, in the order in which one goes before the other."""
    limit = 3 if max(fabric.in_features, fabric.out_features) <= 4096 else 4
    deep = max(sum(step.parameters > 0 for step in branch) for branch in fabric.branches) > limit
    full = int(generic_rank(fabric))
    return not deep, full, reaches_all(fabric), min(used, 0.8)


def _check_promises(inputs: int, outputs: int, budget: float) -> None:
    usage = _share(budget)
    choice = choose(inputs, outputs, usage)
    fitting = [
        fabric
        for fabric in exact_pool(inputs, outputs, usage).fabrics
        if usage(fabric) <= 1 and fabric.density < 1
    ]
    if choice is None:
        assert not fitting
        return
    pick = choice.fabric
    assert pick.parameters <= budget * inputs * outputs * (1 + 1e-12)
    mine = _merits(pick, usage(pick))
    rivals = sorted(fitting, key=lambda f: (-f.width, -usage(f)))[:60]
    assert mine >= max(_merits(fabric, usage(fabric)) for fabric in rivals), str(pick)


@pytest.mark.parametrize("seed", range(3))
def test_random_requests_get_what_the_budget_allows(seed: int) -> None:
    for inputs, outputs, budget in _requests(8, seed):
        _check_promises(inputs, outputs, budget)


@pytest.mark.slow
def test_three_hundred_requests_get_what_the_budget_allows() -> None:
    for inputs, outputs, budget in _requests(300, 100, 5000):
        _check_promises(inputs, outputs, budget)


def test_the_rank_that_is_promised_is_there() -> None:
    """Against the numerical rank of random weights."""
    for inputs, outputs, budget in _requests(40, 7):
        choice = choose(inputs, outputs, _share(budget))
        if choice is None or max(inputs, outputs) > 400:
            continue
        matrix = dense_matrix(choice.fabric, random_factors(choice.fabric))
        assert np.linalg.matrix_rank(matrix) == generic_rank(choice.fabric), str(choice.fabric)
        assert (matrix != 0).all() == bool((choice.fabric.paths() > 0).all())


_PICKS = """
from tests.test_choose import _requests, _share
from sparsify.select.choose import choose
for inputs, outputs, budget in _requests(12, 5):
    choice = choose(inputs, outputs, _share(budget))
    print(choice and (choice.fabric.to_json(), choice.reason, choice.rivals))
"""


def test_the_same_pick_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        found.add(run_python("-c", _PICKS).stdout)
    assert len(found) == 1
    assert "monarch" in found.pop()


@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_can_rank(name: str) -> None:
    choice = choose(64, 64, _share(0.3), criterion=Criterion(name))
    assert choice is not None
    assert name in choice.reason
    key = score(choice.fabric)[name]
    assert choice.score == pytest.approx(key if HIGHER_IS_BETTER[name] else -key)


def test_flops_of_a_fabric_are_its_parameters() -> None:
    by_flops = sp.fabric("auto", 256, 256, budget=Budget(parameters=0.5, flops=0.125))
    assert by_flops == sp.fabric("auto", 256, 256, budget=0.125)


def test_a_score_changes_the_pick() -> None:
    picks = {
        name: sp.fabric("auto", 96, 96, budget=0.45, score=name).family
        for name in ("default", "reconstruction", "stages", "paths_max", "path_variation")
    }
    assert len(set(picks.values())) > 1, picks


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsify.select.score.size.stages", lambda fabric: value)
    score_named.cache_clear()
    with pytest.raises(sp.ConfigError, match=f"'stages' must give a finite number; got {value}"):
        sp.fabric("auto", 64, 64, budget=0.25, score="stages")
    score_named.cache_clear()


def test_rivals_lose_for_a_reason() -> None:
    choice = choose(1024, 1024, _share(0.1))
    assert choice is not None
    families = [rival.family.partition("(")[0] for rival in choice.rivals]
    assert len(set(families)) == len(families)
    assert _family(choice.fabric) not in families
    why = {rival.family.partition("(")[0]: rival.why for rival in choice.rivals}
    assert why["low_rank"] == "rank 51 of 1024"
    assert why["block_diagonal"] == "not every input reaches every output"
    for rival in choice.rivals:
        assert rival.parameters <= 0.1 * 1024**2
        assert rival.score is None or rival.score < choice.score + 0.05


def test_copies_side_by_side_where_blocks_would_mix_the_groups() -> None:
    for inputs, outputs, budget in _requests(20, 3):
        alone = choose(inputs, outputs, _share(budget), repeats=True)
        assert alone is None or alone.fabric.repeats
    free = choose(37, 41, _share(0.5))
    assert free is not None
    assert not free.fabric.repeats


@pytest.mark.parametrize("level", range(5))
def test_blocks_take_turns_in_their_strides(level: int) -> None:
    blocks = alternated(BlockDiagonal(blocks=32).build(256, 256), level)
    (stage,) = blocks.stages
    assert stage.d == (1, 8, 1, 32, 1)[level]
    assert (stage.a * stage.d, stage.b, stage.c) == (32, 8, 8)
    monarch = Monarch(blocks=16).build(256, 256)
    assert alternated(monarch, level) is monarch


@pytest.mark.parametrize("family", sp.topologies())
def test_repeats_allows_no_wrap(family: str) -> None:
    for inputs, outputs in ((61, 61), (64, 60), (67, 31), (96, 100)):
        choice = choose(inputs, outputs, _share(0.6), family=family, repeats=True)
        assert choice is None or choice.fabric.repeats


@pytest.mark.parametrize("divisor", range(2, 43))
def test_rounding_costs_no_link(divisor: int) -> None:
    """A budget of exactly r ranks holds r ranks, whatever the floating point."""
    choice = choose(96, 96, lambda f: f.parameters / (192 * divisor), family="low_rank")
    assert choice is not None
    assert choice.fabric.waist == divisor


# --- along a graph -----------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return x


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.o(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList(Attention(width) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            x = attention(x)
            x = x + mlp(x)
        return x


def _mlp(width: int, depth: int) -> nn.Module:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers)


# Model and input -> pairs of sites of which the second reads what the first wrote.
STACKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[str, str]]]] = {
    "mlp": (lambda: _mlp(256, 5), (2, 256), [("0", "2"), ("2", "4"), ("4", "6"), ("6", "8")]),
    "residual": (
        lambda: Residual(256, 3),
        (2, 256),
        [("up.0", "down.0"), ("down.0", "up.1"), ("up.1", "down.1"), ("down.1", "up.2"),
         ("down.0", "up.2"), ("up.2", "down.2")],
    ),
    "siblings": (lambda: Attention(256), (2, 5, 256), [("q", "o"), ("k", "o"), ("v", "o")]),
    "transformer": (
        lambda: Transformer(256),
        (2, 5, 256),
        [("attention.0.v", "attention.0.o"), ("attention.0.o", "mlp.0.1"), ("mlp.0.1", "mlp.0.3"),
         *[("mlp.0.3", f"attention.1.{n}") for n in "qkv"], ("attention.1.o", "mlp.1.1")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_stacked_blocks_are_never_aligned(name: str) -> None:
    make, shape, pairs = STACKS[name]
    names = tuple({name for pair in pairs for name in pair})
    plan = sp.plan(make(), (torch.zeros(shape),), budget=0.04, include=names)
    fabrics = {site.name: site.fabric for site in plan.replaced}
    assert {_family(fabric) for fabric in fabrics.values()} == {"block_diagonal"}
    for first, second in pairs:
        before, after = (fabrics[name].paths().astype(float) for name in (first, second))
        reach, alone = after @ before, (before > 0).mean()
        assert (reach > 0).mean() > 4 * alone, f"{first} -> {second} do not mix"


def test_siblings_are_alike() -> None:
    plan = sp.plan(Attention(256), (torch.zeros(2, 5, 256),), budget=0.04, include=["q", "k", "v"])
    assert len({site.fabric for site in plan.replaced}) == 1


def test_a_walk_alternates_in_the_order_of_definition() -> None:
    plan = sp.plan(_mlp(256, 4), budget=0.04, include=["0", "2", "4", "6"])
    kinds = [site.fabric.stages[0].d > 1 for site in plan.replaced]
    assert kinds == [False, True, False, True]


def test_a_deep_stack_of_blocks_mixes_everything() -> None:
    plan = sp.plan(_mlp(256, 6), (torch.zeros(1, 256),), budget=0.04)
    product = np.linalg.multi_dot([(site.fabric.paths() > 0) * 1.0 for site in plan.replaced])
    assert (product > 0).all()


# --- whole models ------------------------------------------------------------------------------


class Net(nn.Module):
    """Random convolutions, then random Linear layers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        widths = [rng.choice((32, 37, 48, 61, 64, 96)) for _ in range(4)]
        groups = rng.choice((1, 1, 2, 4))
        grouped = 128 if groups > 1 else widths[2]
        self.features = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1),
            nn.Conv2d(widths[0], widths[1], rng.choice((1, 3, 4)), stride=rng.choice((1, 2, 3))),
            nn.ReLU(),
            nn.Conv2d(widths[1], grouped, (3, 1), dilation=rng.choice((1, 2))),
            nn.Conv2d(grouped, grouped, 3, groups=groups, stride=rng.choice((1, 2)), padding=1),
        )
        self.linear = nn.Sequential(
            nn.Linear(grouped, widths[3]), nn.ReLU(), nn.Linear(widths[3], 3 * widths[3])
        )
        self.head = nn.Linear(3 * widths[3], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.linear(self.features(x).mean((2, 3))))


BUDGETS = [
    0.1,
    0.29,
    Budget(parameters=0.5),
    Budget(flops=0.2),
    Budget(flops=0.45),
    Budget(parameters=0.4, flops=0.3),
]


def _flops(model: nn.Module, x: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_budgets_hold_for_random_models(budget: float | Budget) -> None:
    limit = Budget(parameters=budget) if isinstance(budget, float) else budget
    for seed in range(8):
        model, x = Net(seed).eval(), torch.zeros(2, 3, 19, 17)
        plan = sp.plan(model, (x,), budget=budget)
        assert plan.replaced, str(plan)
        for site in plan.replaced:
            assert site.fabric is not None
            assert site.parameters <= 0.9 * site.dense_parameters, site
        assert plan.density <= (limit.parameters or 0.9)
        flops = sum(site.flops for site in plan.replaced)
        assert flops <= (limit.flops or 100) * sum(site.dense_flops for site in plan.replaced)
        assert _flops(model, x) == sum(site.dense_flops for site in plan.sites)
        sparse = sp.sparsify(model, (x,), plan=plan)
        assert _flops(sparse, x) == sum(site.flops for site in plan.sites), str(plan)
        weights = sum(p.numel() for n, p in sparse.named_parameters() if not n.endswith("bias"))
        assert weights == sum(site.parameters for site in plan.sites)


def test_a_flop_budget_of_a_convolution_needs_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3))
    with pytest.raises(sp.ConfigError, match=r"'0' depends on the image size.* example_inputs"):
        sp.plan(model, budget=Budget(flops=0.2))
    plan = sp.plan(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9)), budget=Budget(flops=0.2))
    assert plan.replaced


# --- requests ----------------------------------------------------------------------------------


def _two() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 10))


def _decisions(plan: Plan) -> dict[str, str]:
    return {site.name: site.decision for site in plan.sites}


REQUESTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "nothing": ({}, {"0": "replace", "2": "replace", "3": "keep"}),
    "include": ({"include": ["0"]}, {"0": "replace", "2": "keep", "3": "keep"}),
    "include a head": ({"include": ["3"], "budget": 0.5}, {"3": "replace", "0": "keep"}),
    "include all does not mean heads": ({"include": ["*"]}, {"0": "replace", "3": "keep"}),
    "exclude": ({"exclude": ["re:[01]"]}, {"0": "keep", "2": "replace"}),
    "exclude wins": ({"include": ["0", "2"], "exclude": ["0"]}, {"0": "keep", "2": "replace"}),
    "exclude a function": (
        {"exclude": [lambda name, module: name == "2"]},
        {"0": "replace", "2": "keep"},
    ),
    "a class": ({"include": [nn.Linear]}, {"0": "replace", "2": "replace"}),
    "a rule keeps": ({"rules": [Rule("0", keep=True)]}, {"0": "keep", "2": "replace"}),
    "a rule asks for a head": (
        {"rules": [Rule("3", topology="low_rank", options={"rank": 4})]},
        {"0": "replace", "3": "replace"},
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("inputs", [None, (torch.zeros(1, 256),)], ids=["walked", "recorded"])
def test_requests(name: str, inputs: Any) -> None:
    request, expected = REQUESTS[name]
    decisions = _decisions(sp.plan(_two(), inputs, **request))
    assert {site: decisions[site] for site in expected} == expected


def test_the_first_rule_that_takes_a_layer_holds() -> None:
    rules = [
        Rule("0", topology="low_rank", options={"rank": 7}),
        Rule("*", topology="clos", budget=0.3),
        Rule("2", topology="monarch"),
    ]
    plan = sp.plan(_two(), rules=rules, budget=0.2)
    fabrics = {site.name: site.fabric for site in plan.replaced}
    assert fabrics["0"].family == "low_rank(rank=7)"
    assert _family(fabrics["2"]) == "clos"
    assert 0.15 < fabrics["2"].density <= 0.3
    assert [site.reason for site in plan.replaced] == ["rule '0'", "rule '*'"]


@pytest.mark.parametrize("topology", sp.topologies())
def test_one_family_for_all(topology: str) -> None:
    plan = sp.plan(_two(), topology=topology, budget=0.25)
    assert {_family(site.fabric) for site in plan.replaced} == {topology}


BAD_REQUESTS: dict[str, tuple[dict[str, Any], type[sp.SparsifyError], str]] = {
    "unknown topology": ({"topology": "monach"}, sp.ConfigError, "Did you mean 'monarch'?"),
    "topology of another type": ({"topology": None}, sp.ConfigError, "no topology None"),
    "pattern without a hit": ({"include": ["fc*"]}, sp.ConfigError, "takes no dense layer"),
    "exclude without a hit": ({"exclude": [nn.Conv2d]}, sp.ConfigError, "exclude=Conv2d"),
    "rule without a hit": ({"rules": [Rule("x", keep=True)]}, sp.ConfigError, "rule='x'"),
    "a text for a list": ({"include": "0"}, sp.ConfigError, "include must be a list"),
    "no rule": ({"rules": ["0"]}, sp.ConfigError, "rules"),
    "bad expression": ({"include": ["re:("]}, sp.ConfigError, "no regular expression"),
    "bad pattern": ({"include": [3]}, sp.ConfigError, "A pattern is"),
    "bad rule topology": (
        {"rules": [Rule("0", topology="x")]},
        sp.ConfigError,
        "no topology 'x'",
    ),
    "bad rule option": (
        {"rules": [Rule("0", topology="monarch", options={"block": 4})]},
        sp.ConfigError,
        "no option 'block'",
    ),
    "nothing fits": ({"budget": 0.001}, sp.BudgetError, "No layer has a fabric within 0.001"),
    "all excluded": ({"exclude": ["*"]}, sp.NothingToDoError, "excluded by '*'"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests(name: str) -> None:
    request, error, fragment = BAD_REQUESTS[name]
    with pytest.raises(error) as caught:
        sp.sparsify(_two(), **request)
    assert fragment in str(caught.value)


BAD_SETTINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "no budget": (lambda: Budget(), "got none"),
    "budget of zero": (lambda: Budget(parameters=0), "got 0"),
    "budget over one": (lambda: Budget(flops=1.5), "budget flops must be"),
    "budget that is none": (lambda: Budget(flops=float("nan")), "got nan"),
    "budget as text": (lambda: Budget(parameters="0.1"), "got '0.1'"),
    "options without a topology": (lambda: Rule("*", options={"rank": 1}), "needs a topology"),
    "kept with a topology": (lambda: Rule("*", keep=True, topology="clos"), "keeps layers dense"),
    "kept with a budget": (lambda: Rule("*", keep=True, budget=0.5), "keeps layers dense"),
    "rule with a bad budget": (lambda: Rule("*", budget=2), "must be a share"),
    "options and a budget": (
        lambda: Rule("*", topology="clos", options={"rank": 1}, budget=0.1),
        "not both",
    ),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings(name: str) -> None:
    make, fragment = BAD_SETTINGS[name]
    with pytest.raises(sp.ConfigError) as caught:
        make()
    assert fragment in str(caught.value)


def test_flops_of_a_strided_convolution() -> None:
    site = Site("conv", "conv2d", 64, 64, (3, 3), rows=100, in_rows=400, calls=2)
    fabric = sp.fabric("monarch", 64, 64, blocks=8).with_kernel((3, 3))
    first, second = fabric.stages
    assert first.kernel == (3, 3)
    assert site.flops_of(fabric) == 2 * 2 * 100 * (first.parameters + second.parameters)
    late = Fabric(
        64, 64, ((fabric.stages[1].__class__(1, 8, 64, 1), first.__class__(1, 64, 8, 1, (3, 3))),)
    )
    assert site.flops_of(late) == 2 * 2 * (400 * 512 + 100 * 512 * 9)
