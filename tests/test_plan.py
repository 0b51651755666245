"""Plans: what they count, how they travel, print, differ and are edited."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsify as sp
from sparsify.config import Budget
from sparsify.plan import Plan, Site
from tests.support.fabrics import any_fabrics

MODEL = nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1),
    nn.Conv2d(64, 64, 3, stride=2),
    nn.Conv2d(64, 64, 3, groups=2),
    nn.Conv2d(64, 128, 1),
    nn.Flatten(),
    nn.Linear(128 * 9, 256),
    nn.Linear(256, 10),
)
INPUT = (torch.zeros(2, 3, 11, 11),)


def _plan(**options: Any) -> Plan:
    return sp.plan(MODEL, INPUT, budget=0.25, **options)


texts = st.text(st.characters(codec="utf-8"), max_size=8)
budgets = st.builds(Budget, st.floats(0.001, 1), st.none() | st.floats(0.001, 1))


@st.composite
def sites(draw: st.DrawFn) -> Site:
    fabric = draw(any_fabrics() | st.none())
    widths = st.integers(1, 64)
    return Site(
        draw(texts),
        draw(st.sampled_from(("linear", "conv2d", "matmul"))),
        fabric.in_features if fabric else draw(widths),
        fabric.out_features if fabric else draw(widths),
        fabric.kernel if fabric else draw(st.sampled_from(((), (3, 3)))),
        calls=draw(st.integers(0, 5)),
        rows=draw(st.none() | widths),
        in_rows=draw(st.none() | widths),
        decision="replace" if fabric else "keep",
        reason=draw(texts),
        fabric=fabric,
        paths=tuple(draw(st.lists(texts, max_size=3))),
    )


plans = st.builds(
    Plan, st.lists(sites(), max_size=4, unique_by=lambda site: site.name).map(tuple), budgets
)


@given(plans)
def test_json_round_trip(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert str(again) == str(plan)
    assert [s.fabric.family for s in again.replaced] == [s.fabric.family for s in plan.replaced]


@given(plans)
def test_totals_are_sums(plan: Plan) -> None:
    replaced = [site for site in plan.sites if site.fabric is not None]
    assert list(plan.replaced) == replaced
    dense = sum(s.in_features * s.out_features * math.prod(s.kernel) for s in replaced)
    assert plan.density == (sum(s.fabric.parameters for s in replaced) / dense if dense else 1.0)
    flops = [2 * s.dense_parameters * (s.rows or 1) * s.calls for s in plan.sites]
    kept = sum(f for f, s in zip(flops, plan.sites, strict=True) if s.fabric is None)
    total = sum(flops)
    assert plan.flop_share == pytest.approx((total - kept) / total if total else 0.0)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize("budget", [0.15, 0.25, 0.5])
def test_the_table_adds_up(budget: float) -> None:
    plan = sp.plan(MODEL, INPUT, budget=budget)
    head, line, *rows, summary = str(plan).splitlines()
    starts = [match.start() for match in re.finditer(r"-+", line)]
    dense = kept = replaced = 0
    for row, site in zip(rows, plan.sites, strict=True):
        cells = [row[i:j].strip() for i, j in zip(starts, [*starts[1:], None], strict=True)]
        name, kind, shape, decision, parameters, why = cells
        assert (name, kind, decision) == (site.name, site.kind, site.decision)
        assert shape.startswith(f"{site.in_features} -> {site.out_features}")
        numbers = re.fullmatch(r"([\d,]+)(?: -> ([\d,]+) \(([\d.]+)%\))?", parameters)
        assert numbers is not None, parameters
        module = MODEL.get_submodule(name)
        assert _number(numbers[1]) == module.weight.numel()
        if decision == "replace":
            replaced += 1
            dense += _number(numbers[1])
            kept += _number(numbers[2])
            share = 100 * _number(numbers[2]) / _number(numbers[1])
            assert float(numbers[3]) == pytest.approx(share, abs=0.051)
            assert why.startswith(site.fabric.family)
        else:
            assert numbers[2] is None
            assert why == site.reason != ""
    totals = re.fullmatch(
        r"(\d+) of (\d+) sites replaced, parameters ([\d,]+) -> ([\d,]+) "
        r"\(density ([\d.]+)%\), ([\d.]+)% of the weight FLOPs, 0% unseen",
        summary,
    )
    assert totals is not None
    assert [_number(text) for text in totals.groups()[:4]] == [replaced, len(rows), dense, kept]
    assert float(totals[5]) == pytest.approx(100 * plan.density, abs=0.051)
    assert float(totals[6]) == pytest.approx(100 * plan.flop_share, abs=0.051)
    assert len(head) <= len(line)


def test_the_table_of_an_empty_plan() -> None:
    plan = Plan(())
    assert str(plan).splitlines()[-1].startswith("0 of 0 sites replaced")
    assert plan.density == 1.0
    assert plan.flop_share == 0.0
    assert Plan.from_json(plan.to_json()) == plan


def test_the_model_itself_is_a_site() -> None:
    plan = sp.plan(nn.Linear(64, 64), budget=0.3)
    assert plan.sites[0].name == ""
    assert str(plan).splitlines()[2].startswith("(the model)")
    sparse = sp.sparsify(nn.Linear(64, 64), plan=plan)
    assert isinstance(sparse, sp.nn.FabricLinear)


# --- editing -----------------------------------------------------------------------------------


def test_edit_and_diff() -> None:
    plan = _plan()
    assert plan.diff(plan) == ""
    assert plan.diff(Plan.from_json(plan.to_json())) == ""
    kept = plan.edit("5", fabric=None, reason="too good to lose")
    assert kept.sites[5 - 1].reason == "too good to lose"
    assert len(kept.replaced) == len(plan.replaced) - 1
    fabric = sp.fabric("low_rank", 1152, 256, rank=3)
    other = kept.edit("5", fabric=fabric)
    assert other.sites[4].fabric == fabric
    assert other.sites[4].decision == "replace"
    assert plan.diff(other).splitlines() == [f"5: {plan.sites[4].fabric} -> {fabric}"]
    assert kept.diff(other) == f"5: keep (too good to lose) -> {fabric}"
    shorter = dataclasses.replace(plan, sites=plan.sites[:-1])
    assert plan.diff(shorter) == "6: keep (final head) -> absent"
    assert shorter.diff(plan) == "6: absent -> keep (final head)"
    assert plan == _plan(), "a plan is frozen"


def test_an_edited_plan_is_followed() -> None:
    fabric = sp.fabric("low_rank", 1152, 256, rank=3)
    plan = _plan().edit("5", fabric=fabric).edit("1", fabric=None)
    sparse = sp.sparsify(MODEL, INPUT, plan=plan)
    assert sparse[5].fabric == fabric
    assert isinstance(sparse[1], nn.Conv2d)
    assert isinstance(sparse[2], sp.nn.FabricConv2d)


BAD_EDITS: dict[str, tuple[Callable[[Plan], Any], str]] = {
    "unknown site": (lambda plan: plan.edit("fc", fabric=None), "no site 'fc'"),
    "other sizes": (
        lambda plan: plan.edit("5", fabric=sp.fabric("low_rank", 256, 1152, rank=3)),
        "5 is 1152 -> 256",
    ),
    "no kernel": (
        lambda plan: plan.edit("1", fabric=sp.fabric("low_rank", 64, 64, rank=3)),
        "with kernel (3, 3)",
    ),
    "a kernel too many": (
        lambda plan: plan.edit(
            "5", fabric=sp.fabric("low_rank", 1152, 256, rank=3).with_kernel((3,))
        ),
        "with (3,)",
    ),
    "mixes the groups": (
        lambda plan: plan.edit(
            "2", fabric=sp.fabric("low_rank", 64, 64, rank=3).with_kernel((3, 3))
        ),
        "groups",
    ),
    "no fabric": (lambda plan: plan.edit("5", fabric="monarch"), "a Fabric"),
}


@pytest.mark.parametrize("name", BAD_EDITS)
def test_bad_edits(name: str) -> None:
    edit, fragment = BAD_EDITS[name]
    with pytest.raises(sp.ConfigError) as caught:
        edit(_plan())
    assert fragment in str(caught.value)


# --- corrupt JSON ------------------------------------------------------------------------------


def _changed(*path: Any, to: Any) -> str:
    """A plan's JSON with one value replaced; `...` as the value drops the key."""
    data = json.loads(_plan().to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(data)


REPLACED, KEPT = 4, 5
CORRUPT: dict[str, tuple[Any, str]] = {
    "nothing": ("", "Not the JSON of a plan"),
    "not JSON": ("{", "Not the JSON of a plan"),
    "null": ("null", "Not the JSON of a plan"),
    "a list": ("[1, 2]", "Not the JSON of a plan"),
    "a number for the text": (3, "Not the JSON of a plan"),
    "deep": ("[" * 100_000, "Not the JSON of a plan"),
    "another schema": (_changed("schema", to=2), "schema 2; this version reads 1"),
    "no schema": (_changed("schema", to=...), "schema"),
    "no sites": (_changed("sites", to=...), "sites"),
    "sites as a number": (_changed("sites", to=4), "Not the JSON"),
    "a site as a number": (_changed("sites", 0, to=4), "Not the JSON"),
    "no budget": (_changed("budget", to=...), "budget"),
    "a bad budget": (_changed("budget", "parameters", to=7), "got 7"),
    "an empty budget": (_changed("budget", to={}), "got none"),
    "an unknown budget": (_changed("budget", "bytes", to=0.1), "bytes"),
    "an unknown field": (_changed("sites", 0, "inn_features", to=3), "Did you mean 'in_features'"),
    "no name": (_changed("sites", 0, "name", to=...), "name"),
    "no decision": (_changed("sites", 0, "decision", to=...), "decision"),
    "another decision": (_changed("sites", 0, "decision", to="drop"), "got 'drop'"),
    "replaced by nothing": (_changed("sites", REPLACED, "fabric", to=None), "goes with"),
    "kept with a fabric": (_changed("sites", REPLACED, "decision", to="keep"), "goes with"),
    "a fabric as text": (_changed("sites", REPLACED, "fabric", to="monarch"), "Not the JSON"),
    "a broken fabric": (
        _changed("sites", REPLACED, "fabric", "branches", to=[[[1, 2, 3, 4]]]),
        "branch",
    ),
    "a fabric of other sizes": (
        _changed("sites", REPLACED, "fabric", to={"in": 4, "out": 4, "branches": [[[1, 4, 4, 1]]]}),
        "4 -> 4",
    ),
    "a name as a number": (_changed("sites", 0, "name", to=7), "name"),
    "a size as text": (_changed("sites", 0, "in_features", to="64"), "in_features"),
    "a negative size": (_changed("sites", 0, "out_features", to=-1), "out_features"),
    "a size with a fraction": (_changed("sites", 0, "in_features", to=64.5), "in_features"),
    "a kernel as text": (_changed("sites", 0, "kernel", to="33"), "kernel"),
    "a negative kernel": (_changed("sites", 0, "kernel", to=[-3, 3]), "kernel"),
    "a kernel as null": (_changed("sites", 0, "kernel", to=None), "kernel"),
    "calls as text": (_changed("sites", 0, "calls", to="many"), "calls"),
    "negative calls": (_changed("sites", 0, "calls", to=-1), "calls"),
    "rows as text": (_changed("sites", 0, "rows", to="5"), "rows"),
    "groups of zero": (_changed("sites", 0, "groups", to=0), "groups"),
    "a reason as a list": (_changed("sites", 0, "reason", to=[]), "reason"),
    "paths as text": (_changed("sites", 0, "paths", to="ab"), "paths"),
    "a site twice": (_changed("sites", 1, "name", to="0"), "twice"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_json_is_a_config_error(name: str) -> None:
    text, fragment = CORRUPT[name]
    with pytest.raises(sp.ConfigError) as caught:
        Plan.from_json(text)
    assert fragment in str(caught.value)


# --- plans of other models -----------------------------------------------------------------------


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no such layer": (lambda: nn.Sequential(nn.Linear(3, 64)), "no dense layer '1'"),
    "another width": (
        lambda: nn.Sequential(*MODEL[:5], nn.Linear(128 * 9, 255), nn.Linear(255, 10)),
        "it has '5' as",
    ),
    "another kind": (
        lambda: nn.Sequential(MODEL[0], nn.Conv1d(64, 64, 3), *MODEL[2:]),
        "it has '1' as",
    ),
    "another stride is fine": (
        lambda: nn.Sequential(MODEL[0], nn.Conv2d(64, 64, 3, stride=1), *MODEL[2:]),
        "",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_plan_of_another_model(name: str) -> None:
    make, fragment = OTHERS[name]
    plan = _plan()
    if not fragment:
        assert sp.sparsify(make(), plan=plan)
        return
    with pytest.raises(sp.ConfigError, match="The plan is of another model") as caught:
        sp.sparsify(make(), plan=plan)
    assert fragment in str(caught.value)


def test_a_plan_cannot_replace_what_is_tied() -> None:
    plan = sp.plan(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), include=["0", "1"])
    tied = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    tied[1].weight = tied[0].weight
    with pytest.raises(sp.ConfigError, match=r"'0' cannot be replaced: tied to 1\.weight"):
        sp.sparsify(tied, plan=plan)


@pytest.mark.parametrize(
    "choice",
    [{"budget": 0.2}, {"topology": "clos"}, {"include": ["5"]}, {"exclude": ["5"]},
     {"rules": [sp.Rule("5", keep=True)]}],
    ids=lambda choice: next(iter(choice)),
)  # fmt: skip
def test_a_plan_leaves_no_choice(choice: dict[str, Any]) -> None:
    with pytest.raises(sp.ConfigError, match=f"{next(iter(choice))}= cannot go with it"):
        sp.sparsify(MODEL, INPUT, plan=_plan(), **choice)


@pytest.mark.parametrize("plan", ["{}", {"sites": []}, 3])
def test_a_plan_of_another_type(plan: Any) -> None:
    with pytest.raises(sp.ConfigError, match=r"plan must be a Plan.*Plan\.from_json"):
        sp.sparsify(MODEL, INPUT, plan=plan)


def test_a_plan_that_keeps_everything() -> None:
    plan = _plan()
    for site in plan.replaced:
        plan = plan.edit(site.name, fabric=None, reason="no")
    with pytest.raises(sp.NothingToDoError, match=r"All dense layers are kept: .*no"):
        sp.sparsify(MODEL, INPUT, plan=plan)
