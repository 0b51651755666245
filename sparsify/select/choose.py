"""Which fabric for one layer, without data: gates, then a score, then ties.

Reference: NeuroFabric, arXiv 2002.08339 (rating topologies before training).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..fabric import Fabric, Stage
from ..site import Rival
from ..topology import Family
from .candidates import AUTO, Pool, Usage, exact_pool
from .criterion import Criterion
from .gates import most_stages, rank

__all__ = ["AUTO", "Choice", "choose", "select"]

_FULL = 0.8
"""Fabrics that use less than this share of the budget lose to those that use more."""

Places = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """A fabric, and why it was taken.

    Args:
        fabric: the pick.
        score: by the criterion of the choice.
        reason: why, in a few words.
        rivals: the best of each other family, the best first.
        error: of the projection of a trained weight, where there is one.
    """

    fabric: Fabric
    score: float
    reason: str
    rivals: tuple[Rival, ...]
    error: float | None = None


def choose(
    in_features: int,
    out_features: int,
    usage: Usage,
    *,
    family: Family = AUTO,
    criterion: Criterion | None = None,
    repeats: bool = False,
) -> Choice | None:
    """The best fabric within a budget.

    Gates, each among those that passed the ones before: at most 3 stages (4 above 4096 features);
    the highest generic rank; every input reaches every output; at least 80 % of the budget is used.
    Where nobody passes a gate, the nearest to it stay. Then the highest score wins; among scores
    nearly as high (`Criterion.tie`) blocks of multiples of 8, no wrap, fewer stages, more
    parameters, in this order.

    Args:
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.
        usage: share of the budget that a fabric uses; in proportion to links and ranks.
        family: a name of `topologies()` or a topology; "auto" for all that have fast kernels.
        criterion: what to rank by; by default what predicts training best.
        repeats: only fabrics whose copies can stand side by side (for a grouped layer).

    Returns:
        The choice, None where nothing fits.

    Example:
        >>> choose(1024, 1024, lambda fabric: fabric.density / 0.0625).fabric.family
        'monarch(blocks=32)'
    """
    pool = exact_pool(in_features, out_features, usage, family, repeats)
    used = np.array([usage(fabric) for fabric in pool.fabrics])
    return select(pool, used, criterion or Criterion())


def select(pool: Pool, used: Shares, criterion: Criterion) -> Choice | None:
    """Pick from a pool.

    Args:
        pool: the fabrics.
        used: the share of the budget that each uses; above 1 it does not fit.
        criterion: what to rank by.

    Returns:
        The choice, None where nothing fits.
    """
    fitting = np.flatnonzero(used <= 1)
    if not fitting.size:
        return None
    passed = _through_gates(pool, used, fitting)
    scores = {int(place): criterion(pool.fabrics[place]) for place in passed[-1]}
    highest = max(scores.values())
    tied = [p for p, score in scores.items() if score >= highest - criterion.tie(highest)]
    pick = max(tied, key=lambda p: _merit(pool.fabrics[p], float(used[p]), scores[p]))
    many = f"best of {len(scores)} by" if len(scores) > 1 else "alone past the gates;"
    return Choice(
        pool.fabrics[pick],
        scores[pick],
        f"{many} {criterion.name} score {scores[pick]:.3g}",
        _rivals(pool, used, passed, scores, pick),
    )


def _through_gates(pool: Pool, used: Shares, fitting: Places) -> list[Places]:
    """The places left after 0, 1, ... gates."""
    first = pool.fabrics[0]
    limit = most_stages(first.in_features, first.out_features)
    passed = [fitting, _best(fitting, -np.maximum(pool.depth[fitting], limit))]
    # Ranks cost time. Most often those who pass the other gates have the highest one anyway.
    widest = _best(passed[-1], pool.width[passed[-1]])
    survivors = _rest_of_gates(pool, used, widest)
    if not any(rank(pool.fabrics[place]) == pool.width[place] for place in survivors[-1]):
        ranks = np.array([rank(pool.fabrics[place]) for place in passed[-1]])
        widest = _best(passed[-1], ranks)
        survivors = _rest_of_gates(pool, used, widest)
    last = survivors[-1]
    full = _best(last, np.array([rank(pool.fabrics[place]) for place in last]))
    return [*passed, widest, *survivors[:-1], full]


def _rest_of_gates(pool: Pool, used: Shares, places: Places) -> list[Places]:
    connected = _best(places, pool.connected(places))
    return [connected, _best(connected, np.minimum(used[connected], _FULL))]


def _best(places: Places, merits: npt.NDArray[np.generic]) -> Places:
    best: Places = places[merits == merits.max()]
    return best


def _merit(fabric: Fabric, used: float, score: float) -> tuple[float, ...]:
    """How ties are broken."""
    even = all(isinstance(s, Stage) and s.b % 8 == 0 and s.c % 8 == 0 for s in fabric.stages)
    return (even, fabric.is_exact, -len(fabric.stages), round(used, 3), score)


def _rivals(
    pool: Pool, used: Shares, passed: list[Places], scores: dict[int, float], pick: int
) -> tuple[Rival, ...]:
    """The best of each other family: by score, then by how many gates it passed."""
    gates_passed = {int(place): gate for gate, places in enumerate(passed) for place in places}
    ranked = sorted(
        gates_passed, key=lambda p: (gates_passed[p], scores.get(p, 0.0), used[p]), reverse=True
    )
    found: dict[str, Rival] = {_name(pool.fabrics[pick]): Rival("", 0, None, "")}
    for place in ranked:
        fabric = pool.fabrics[place]
        if _name(fabric) in found:
            continue
        score = scores.get(place)
        if score is None:
            why = _shortcoming(pool, used, place, gates_passed[place])
        elif score < scores[pick]:
            why = "a lower score"
        else:
            why = "hardly a better score, and less even blocks or more stages"
        found[_name(fabric)] = Rival(fabric.family, fabric.parameters, score, why)
    return tuple(found.values())[1:]


def _shortcoming(pool: Pool, used: Shares, place: int, gate: int) -> str:
    fabric = pool.fabrics[place]
    return (
        f"{pool.depth[place]} stages",
        f"rank {rank(fabric)} of {min(fabric.in_features, fabric.out_features)}",
        "not every input reaches every output",
        f"uses {used[place]:.0%} of the budget",
    )[gate]


def _name(fabric: Fabric) -> str:
    return fabric.family.partition("(")[0]
