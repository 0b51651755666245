"""What a trained layer offers to the planner: fabrics of rising size, by how near they come."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from ..fabric import Fabric
from ..projection import Projection, variants
from ..site import Rival, Site
from ..topology import Family, LowRank, Monarch, Topology
from ..topology.base import block_counts, is_balanced
from .candidates import AUTO
from .choose import Choice
from .fitting import Fit, turns
from .ladder import MOST, Conditions, Ladder, Rung, for_site
from .trained import Trained

__all__ = ["TrainedLadder", "has_estimates"]

_LOPSIDED = 2
"""Blocks of inputs and of outputs differ in number by this factor at most, among those tried."""

_CLOSE = 1.25
"""A rival whose estimated error is higher by more than this factor is not projected."""

_CLASSES: dict[object, tuple[type[Topology], ...]] = {
    AUTO: (LowRank, Monarch),
    "low_rank": (LowRank,),
    "monarch": (Monarch,),
    LowRank: (LowRank,),
    Monarch: (Monarch,),
}
_FINE, _COARSE = 2 ** (1 / 8), 2 ** (2 / 3)
"""Ratio of the densities of neighbouring rungs: where errors are known, and where each takes a
projection."""


def has_estimates(family: Family) -> bool:
    """Whether the errors of a family are known without a projection of each of its fabrics."""
    return isinstance(family, (str, type)) and family in _CLASSES


class TrainedLadder(Ladder):
    """The planner's choices for one trained layer.

    A choice is worth the share of the weight's energy that it keeps (of the output's, with a
    covariance), times the number of dense weights. Equal marginal values then take parameters from
    where they explain little: sums of errors that counted each layer alike, or by the energy of its
    output, gave a larger loss of byte-level transformers.

    "auto" tries low rank and Monarch, whose errors are sums of squared singular values. Of any
    other family the data-free choice per size is taken, and projected.
    """

    def __init__(
        self, site: Site, family: Family, conditions: Conditions, trained: Trained
    ) -> None:
        """Of one layer."""
        self._trained = trained
        self._is_calibrated = trained.covariance_of(site.name) is not None
        self._fit: Fit | None = None
        self._errors: dict[Fabric, float] = {}
        self.ratio = _FINE if has_estimates(family) else _COARSE
        if has_estimates(family):
            sizes = (site.in_features // site.groups, site.out_features // site.groups)
            self._fit = Fit(
                lambda: (trained.weight(site.name), trained.covariance(site.name)), site.groups
            )
            self._settings = tuple(_settings(family, *sizes))
        super().__init__(site, family, conditions)

    def forget(self) -> None:
        """Let the weight go, once all sizes have been asked for."""
        if self._fit is not None:
            self._fit.forget()

    def _rungs(self) -> Iterator[Rung]:
        if self._fit is None:
            yield from super()._rungs()
            return
        site, conditions = self.site, self.conditions
        if conditions.budget.parameters is None and conditions.budget.flops is None:
            yield Rung(None, conditions.costs(site, None), float(site.dense_parameters))
        seen: set[Fabric] = set()
        limit = MOST
        while (choice := self._nearest(self._share_of(limit))) is not None:
            if choice.fabric not in seen:
                seen.add(choice.fabric)
                yield self.rung(choice)
            limit /= self.ratio
        if not seen and conditions.min_speedup is not None:
            self.reason = (
                f"no fabric is predicted {conditions.min_speedup:g} times as fast as dense"
            )

    def exact(self, limits: tuple[float, ...]) -> Rung | None:
        """The choice that fills costs to the last link, for this layer."""
        if self._fit is None:
            return super().exact(limits)

        def usage(whole: Fabric) -> float:
            costs = self.conditions.costs(self.site, whole)
            shares = [cost / limit for cost, limit in zip(costs, limits, strict=True)]
            return max(*shares, self._share_of(MOST)(whole))

        choice = self._nearest(usage)
        return None if choice is None else self.rung(choice)

    def rung(self, choice: Choice) -> Rung:
        """A choice with what it costs and what it is worth."""
        whole = for_site(self.site, choice.fabric)
        value = self.site.dense_parameters * (1 - self._error(choice.fabric))
        return Rung(choice, self.conditions.costs(self.site, whole), value)

    def finished(self, rung: Rung) -> Choice:
        """The choice of a rung with its true error, in the variant that comes nearest.

        Where inputs are correlated between blocks, Monarch may be nearer than it seemed: the best
        fabric of the other family that costs no more is projected too.
        """
        assert rung.choice is not None
        fabrics = [for_site(self.site, rung.choice.fabric)]
        if self._fit is not None and self._is_calibrated:
            fabrics += self._others(rung)
        made = [self._projected(fabric) for fabric in fabrics]
        best = min(range(len(made)), key=lambda place: made[place][1].error)
        fabric, projection = made[best]
        rivals = rung.choice.rivals
        if best:  # the first choice is now the rival
            first, lost = made[0]
            rivals = (Rival(first.family, first.parameters, -lost.error, "a larger error"),)
        return dataclasses.replace(
            rung.choice,
            fabric=fabric,
            score=-projection.error,
            rivals=rivals,
            error=projection.error,
        )

    def _projected(self, whole: Fabric) -> tuple[Fabric, Projection]:
        """The variant that seems to come nearest, and its projection."""
        site = self.site
        if self._fit is None or site.groups > 1:
            return self._trained.best(site.name, whole, site.groups)
        ways = list(zip(variants(whole), turns(whole), strict=True))
        errors = [self._fit.error(whole, turned) for _, turned in ways]
        self._fit.forget()
        fabric = ways[int(np.argmin(errors))][0]
        return fabric, self._trained.project(site.name, fabric)

    def _others(self, rung: Rung) -> list[Fabric]:
        """The best fabric of each other family within the costs of a rung."""
        assert rung.choice is not None

        def usage(whole: Fabric) -> float:
            costs = self.conditions.costs(self.site, whole)
            return max(cost / limit for cost, limit in zip(costs, rung.costs, strict=True))

        name = _name(rung.choice.fabric)
        close = _CLOSE * self._error(rung.choice.fabric)
        found = [c for c in self._candidates(usage) if _name(c) != name and self._error(c) <= close]
        return [for_site(self.site, min(found, key=self._error))] if found else []

    def _share_of(self, limit: float) -> Callable[[Fabric], float]:
        least = self.conditions.min_speedup

        def usage(whole: Fabric) -> float:
            if least is not None and self.conditions.speedup(self.site, whole) < least:
                return math.inf
            return whole.parameters / self.site.dense_parameters / limit

        return usage

    def _nearest(self, usage: Callable[[Fabric], float]) -> Choice | None:
        """The fabric of the least error within a budget."""
        found = list(self._candidates(usage))
        if not found:
            return None
        errors = [self._error(fabric) for fabric in found]
        best = int(np.argmin(errors))
        what = "output" if self._is_calibrated else "weight"
        reason = f"nearest to the dense {what} of {len(found)}"
        return Choice(found[best], -errors[best], reason, _rivals(found, errors, best))

    def _candidates(self, usage: Callable[[Fabric], float]) -> Iterator[Fabric]:
        """The largest fabric of each setting within a budget, over the features of one group."""
        for topology in self._settings:
            most = topology.most(*self.sizes)
            unit = usage(for_site(self.site, _built(topology, *self.sizes)))
            size = min(most, int(1 / unit) if 0 < unit < math.inf else 0)
            for count in (size + 1, size, size - 1):
                if not 1 <= count <= most:
                    continue
                grown = dataclasses.replace(topology, **{str(topology.grows): count})
                fabric = _built(grown, *self.sizes)
                if (self.site.groups == 1 or fabric.repeats) and (
                    usage(for_site(self.site, fabric)) <= 1
                ):
                    yield fabric
                    break

    def _error(self, fabric: Fabric) -> float:
        if fabric not in self._errors:
            self._errors[fabric] = self._measured(fabric)
        return self._errors[fabric]

    def _measured(self, fabric: Fabric) -> float:
        site = self.site
        if self._fit is None:
            return self._trained.project(site.name, for_site(site, fabric), site.groups).error
        if site.kernel:
            fabric = fabric.with_kernel(site.kernel, last=site.is_transposed)
        return self._fit.error(fabric)


def _settings(family: Family, in_features: int, out_features: int) -> Iterator[Topology]:
    """Low rank, and Monarch with about 2, 4, 8, ... blocks at either end."""
    classes = _CLASSES[family]
    if LowRank in classes:
        yield LowRank(rank=1)
    if Monarch not in classes:
        return
    widest = max(in_features, out_features)
    for blocks_in in _doublings(in_features):
        for blocks_out in _doublings(out_features):
            is_small = 1 < blocks_in * blocks_out <= widest
            if is_small and is_balanced(blocks_in, blocks_out, _LOPSIDED):
                yield Monarch.of(blocks_in, blocks_out)


@lru_cache(maxsize=16384)
def _built(topology: Topology, in_features: int, out_features: int) -> Fabric:
    """Layers of one size ask for the same fabrics."""
    return topology.build(in_features, out_features)


def _doublings(width: int) -> list[int]:
    """Numbers of blocks near the powers of two."""
    counts = [count for count in block_counts(width) if count < width] or [1]
    powers = [2**exponent for exponent in range(width.bit_length())]
    return sorted({min(counts, key=lambda c: abs(math.log(c / power))) for power in powers})


def _name(fabric: Fabric) -> str:
    return fabric.family.partition("(")[0]


def _rivals(found: list[Fabric], errors: list[float], best: int) -> tuple[Rival, ...]:
    """The best of each other family."""
    rivals: dict[str, Rival] = {_name(found[best]): Rival("", 0, None, "")}
    for place in np.argsort(errors, kind="stable"):
        fabric = found[place]
        rival = Rival(fabric.family, fabric.parameters, -errors[place], "a larger error")
        rivals.setdefault(_name(fabric), rival)
    return tuple(rivals.values())[1:]
