"""A fabric for each of many layers, under one budget."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from ..errors import BudgetError, ConfigError
from ..site import Site
from ..topology import Family
from .allocate import Option, allocate
from .candidates import AUTO, family_text
from .choose import Choice
from .ladder import Conditions, Ladder, Rung, for_site
from .strides import alternated
from .trained import Trained
from .trained_ladder import TrainedLadder

__all__ = ["Demand", "assign"]

_WORTH_FILLING = 0.03
"""A remainder of the budget for which fabrics are looked for that fill it to the last link."""


@dataclass(frozen=True)
class Demand:
    """One layer that wants a fabric.

    Args:
        site: the layer.
        family: a name of `topologies()`, a topology, or "auto".
        level: how many layers lie before it in the graph.
    """

    site: Site
    family: Family
    level: int


@dataclass
class _Unit:
    """Layers of one kind at one level, such as query, key and value: they get the same fabric."""

    ladder: Ladder
    places: list[int]
    rung: Rung

    def costs(self, rung: Rung) -> tuple[float, ...]:
        return tuple(cost * len(self.places) for cost in rung.costs)

    def option(self, rung: Rung, limits: Sequence[float]) -> Option:
        costs = self.costs(rung)
        shares = tuple(cost / limit for cost, limit in zip(costs, limits, strict=True))
        return Option(shares, rung.value * len(self.places))


def assign(
    demands: Sequence[Demand], conditions: Conditions, trained: Trained | None = None
) -> list[Choice | str]:
    """Choose for all layers together.

    Args:
        demands: the layers.
        conditions: budget and criterion.
        trained: their weights, where fabrics are to come near them; else choose without data.

    Returns:
        Per layer its choice, with the fabric of the whole layer, stride and kernel in place; or the
        reason why it stays dense.

    Raises:
        BudgetError: not even the fastest fabrics keep to a budget of seconds.
        ConfigError: a limit depends on inputs that are not known.
        ModelError: a weight has NaN or infinite entries.
    """
    for demand in demands:
        _check(demand.site, conditions)
    ladders: dict[Hashable, Ladder] = {}
    units: dict[Hashable, _Unit] = {}
    answers: list[Choice | str] = ["" for _ in demands]
    for place, demand in enumerate(demands):
        kind = _kind(demand) if trained is None else demand.site.name
        if kind not in ladders:
            ladders[kind] = _ladder(demand, conditions, trained)
        lowest = _lowest(ladders[kind], conditions)
        if isinstance(lowest, str):
            answers[place] = lowest
        else:
            unit = units.setdefault((kind, demand.level), _Unit(ladders[kind], [], lowest))
            unit.places.append(place)
    _divide(list(units.values()), conditions)
    for unit in units.values():
        for place in unit.places:
            answers[place] = _placed(unit, demands[place])
    return answers


def _ladder(demand: Demand, conditions: Conditions, trained: Trained | None) -> Ladder:
    if trained is None:
        return Ladder(demand.site, demand.family, conditions)
    ladder = TrainedLadder(demand.site, demand.family, conditions, trained)
    ladder.forget()
    return ladder


def _check(site: Site, conditions: Conditions) -> None:
    if site.rows is not None:
        return
    if conditions.budget.latency_s is not None or conditions.min_speedup is not None:
        raise ConfigError(
            f"The seconds that {site.name!r} takes depend on its input: give example_inputs for a "
            "budget of latency_s and for min_speedup."
        )
    if conditions.budget.flops is not None and site.kernel:
        raise ConfigError(
            f"A budget of FLOPs for the convolution {site.name!r} depends on the image size: "
            "give example_inputs."
        )


def _kind(demand: Demand) -> Hashable:
    """Layers of one kind have the same fabrics at the same costs."""
    site = demand.site
    return (
        demand.family, site.kind, site.in_features, site.out_features, site.kernel, site.groups,
        site.rows, site.in_rows, site.calls,
    )  # fmt: skip


def _own_limits(site: Site, conditions: Conditions) -> tuple[float, ...]:
    """The share of each limit that a layer has a right to; infinite for seconds."""
    shares = (conditions.budget.parameters, conditions.budget.flops, conditions.budget.latency_s)
    whole = (site.dense_parameters, site.dense_flops, float("inf"))
    return tuple(
        share * cost for share, cost in zip(shares, whole, strict=True) if share is not None
    )


def _lowest(ladder: Ladder, conditions: Conditions) -> Rung | str:
    """The rung to start from, which keeps within the layer's own share; or why there is none.

    The smallest one; the fastest where seconds are limited, because small ones may be slow.
    """
    limits = _own_limits(ladder.site, conditions)
    fitting = [
        rung
        for rung in ladder.rungs
        if all(cost <= limit for cost, limit in zip(rung.costs, limits, strict=True))
    ]
    if fitting:
        return min(fitting, key=lambda rung: rung.costs[::-1])  # seconds are the last cost
    if ladder.reason:
        return ladder.reason
    which = "" if ladder.family == AUTO else f" of the family {family_text(ladder.family)}"
    return f"has no fabric{which} within {conditions.budget}"


def _divide(units: list[_Unit], conditions: Conditions) -> None:
    """Set the rung of each unit."""
    if not units:
        return
    limits = _limits(units, conditions)
    if len({id(unit.ladder) for unit in units}) == 1:
        _take_equal_shares(units, limits)
    rungs = [(unit.rung, *unit.ladder.rungs) for unit in units]
    options = [
        [unit.option(rung, limits) for rung in offered]
        for unit, offered in zip(units, rungs, strict=True)
    ]
    if any(sum(options[k][0].costs[i] for k in range(len(units))) > 1 for i in range(len(limits))):
        needed = sum(unit.costs(unit.rung)[-1] for unit in units)
        raise BudgetError(
            f"The fastest fabrics are predicted to take {needed:.3g} s; got the budget "
            f"latency_s={conditions.budget.latency_s}. Raise it, or run on fewer rows."
        )
    for unit, offered, place in zip(units, rungs, allocate(options), strict=True):
        unit.rung = offered[place]
    _fill(units, limits)


def _limits(units: list[_Unit], conditions: Conditions) -> tuple[float, ...]:
    own = [
        [limit * len(u.places) for limit in _own_limits(u.ladder.site, conditions)] for u in units
    ]
    totals = [sum(column) for column in zip(*own, strict=True)]
    if conditions.budget.latency_s is not None:
        totals[-1] = conditions.budget.latency_s
    return tuple(totals)


def _take_equal_shares(units: list[_Unit], limits: tuple[float, ...]) -> None:
    """Layers that are all alike begin with what each of them alone would get."""
    count = sum(len(unit.places) for unit in units)
    rung = units[0].ladder.exact(tuple(limit / count for limit in limits))
    if rung is not None:
        for unit in units:
            unit.rung = rung


def _fill(units: list[_Unit], limits: tuple[float, ...]) -> None:
    """Fill the remainder with fabrics made to measure, the largest layers first."""
    for unit in sorted(units, key=lambda unit: -unit.ladder.site.dense_parameters):
        used = [sum(column) for column in zip(*(u.costs(u.rung) for u in units), strict=True)]
        left = [limit - cost for limit, cost in zip(limits, used, strict=True)]
        if any(rest < _WORTH_FILLING * limit for rest, limit in zip(left, limits, strict=True)):
            return
        own = [
            rest / len(unit.places) + cost for rest, cost in zip(left, unit.rung.costs, strict=True)
        ]
        found = unit.ladder.exact(tuple(own))
        if found is not None and found.value > unit.rung.value:
            unit.rung = found


def _placed(unit: _Unit, demand: Demand) -> Choice | str:
    choice = unit.rung.choice
    if choice is None:
        return "dense is within the budget of seconds"
    if isinstance(unit.ladder, TrainedLadder):
        return unit.ladder.finished(unit.rung)
    fabric = alternated(choice.fabric, demand.level)
    return replace(choice, fabric=for_site(demand.site, fabric))
