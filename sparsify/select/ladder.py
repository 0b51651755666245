"""What one kind of layer offers to the planner: choices of rising size, with their costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..config import Budget
from ..fabric import Fabric
from ..site import Site
from ..topology import Family
from .candidates import pool
from .choose import Choice, choose, select
from .criterion import Criterion
from .gates import rank

if TYPE_CHECKING:
    from .latency import LatencyModel

__all__ = ["Conditions", "Ladder", "Rung", "for_site"]

MOST = 0.9
"""A fabric that keeps more than this share of the dense parameters is not worth its overhead."""


@dataclass(frozen=True)
class Conditions:
    """What a plan is to keep to.

    Args:
        budget: the limits; shares are of the layers that are replaced.
        criterion: what fabrics are ranked by.
        min_speedup: least predicted speed-up over the dense layer; None for any.
        latency: predicts seconds; needed for a budget of seconds and for min_speedup.
    """

    budget: Budget
    criterion: Criterion
    min_speedup: float | None = None
    latency: LatencyModel | None = None

    def costs(self, site: Site, fabric: Fabric | None) -> tuple[float, ...]:
        """What each limit of the budget counts, for one layer; None stands for the dense layer."""
        found: list[float] = []
        if self.budget.parameters is not None:
            found.append(site.dense_parameters if fabric is None else fabric.parameters)
        if self.budget.flops is not None:
            found.append(site.dense_flops if fabric is None else site.flops_of(fabric))
        if self.budget.latency_s is not None:
            found.append(self.seconds(site, fabric))
        return tuple(found)

    def seconds(self, site: Site, fabric: Fabric | None) -> float:
        """Predicted seconds in one run of the model."""
        assert self.latency is not None
        return self.latency.site(site, fabric)

    def speedup(self, site: Site, fabric: Fabric) -> float:
        """Predicted seconds of the dense layer over those of a fabric."""
        return self.seconds(site, None) / self.seconds(site, fabric)


@dataclass(frozen=True)
class Rung:
    """One choice for a layer; without one it stays dense.

    Args:
        choice: over the features of one group; None for the dense layer.
        costs: what each limit counts for the whole layer.
        value: what it is worth to the model, see `Ladder`.
    """

    choice: Choice | None
    costs: tuple[float, ...]
    value: float


class Ladder:
    """The planner's choices for a layer at falling densities.

    A choice is worth (in + out features) * log(parameters * rank / full rank): the logarithm of
    what can be learned, for each feature that is served. Equal marginal values then give every
    layer parameters in proportion to its in + out features, the Erdos-Renyi allocation of the
    literature on static sparse training (Mocanu et al. 2018; Evci et al. 2020), as far as fabrics
    of such sizes exist.
    """

    ratio = 2 ** (1 / 3)  # of the densities of neighbouring rungs

    def __init__(self, site: Site, family: Family, conditions: Conditions) -> None:
        """Of one layer, which stands for all of its kind."""
        self.site, self.family, self.conditions = site, family, conditions
        self.sizes = (site.in_features // site.groups, site.out_features // site.groups)
        self.reason = ""
        self.rungs = tuple(self._rungs())

    def _rungs(self) -> Iterator[Rung]:
        """The largest first; a reason is left where there are none."""
        site, conditions = self.site, self.conditions
        offered = pool(*self.sizes, self.family, site.groups > 1)
        whole = [for_site(site, fabric) for fabric in offered.fabrics]
        density = np.array([fabric.parameters for fabric in whole]) / site.dense_parameters
        if conditions.min_speedup is not None:
            speedup = np.array([conditions.speedup(site, fabric) for fabric in whole])
            density = np.where(speedup >= conditions.min_speedup, density, np.inf)
            if whole and np.isinf(density).all():
                self.reason = (
                    f"no fabric is predicted {conditions.min_speedup:g} times as fast as dense, "
                    f"the fastest {speedup.max():.2g} times"
                )
        if conditions.budget.parameters is None and conditions.budget.flops is None:
            yield Rung(None, conditions.costs(site, None), self._value(site.dense_parameters, 1.0))
        seen: set[Fabric] = set()
        limit = MOST
        while density.size and limit >= density.min():
            choice = select(offered, density / limit, conditions.criterion)
            if choice is not None and choice.fabric not in seen:
                seen.add(choice.fabric)
                yield self.rung(choice)
            limit /= self.ratio

    def exact(self, limits: tuple[float, ...]) -> Rung | None:
        """The choice that fills costs to the last link, for one layer."""

        def usage(fabric: Fabric) -> float:
            whole = for_site(self.site, fabric)
            least = self.conditions.min_speedup
            if least is not None and self.conditions.speedup(self.site, whole) < least:
                return math.inf
            costs = self.conditions.costs(self.site, whole)
            shares = [cost / limit for cost, limit in zip(costs, limits, strict=True)]
            return max(*shares, whole.parameters / self.site.dense_parameters / MOST)

        choice = choose(
            *self.sizes,
            usage,
            family=self.family,
            criterion=self.conditions.criterion,
            repeats=self.site.groups > 1,
        )
        return None if choice is None else self.rung(choice)

    def rung(self, choice: Choice) -> Rung:
        """A choice with what it costs and what it is worth."""
        fabric = for_site(self.site, choice.fabric)
        share = rank(choice.fabric) / min(self.sizes)
        return Rung(
            choice, self.conditions.costs(self.site, fabric), self._value(fabric.parameters, share)
        )

    def _value(self, parameters: int, rank_share: float) -> float:
        features = self.site.in_features + self.site.out_features + sum(self.site.kernel)
        return features * math.log(parameters * rank_share)


def for_site(site: Site, fabric: Fabric) -> Fabric:
    """A fabric over the features of one group -> that of the whole layer, kernel and all."""
    if site.groups > 1:
        fabric = fabric.repeat(site.groups)
    return fabric.with_kernel(site.kernel, last=site.is_transposed) if site.kernel else fabric
