"""The fabrics that compete for a layer, with what the gates ask of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, nearest
from ..fabric import Fabric
from ..topology import TOPOLOGIES, Family, Topology, proposals
from ..topology.plugins import check_family
from .gates import depth, reaches_all

__all__ = ["AUTO", "Pool", "Usage", "check_topology", "exact_pool", "family_text", "pool"]

AUTO = "auto"
"""The name that leaves the family to the heuristic."""

Usage = Callable[[Fabric], float]
"""The share of the budget that a fabric uses; above 1 it does not fit."""

_STEP = 1.2
"""Ratio of neighbouring sizes of a growing option in the pool."""


def check_topology(family: object) -> None:
    """Check that a family, or "auto", was given.

    Raises:
        ConfigError: it is no name of a family and no topology.
    """
    if isinstance(family, Topology):
        return
    if isinstance(family, type):
        try:
            check_family(getattr(family, "name", family.__name__), family)
        except ConfigError as error:
            raise ConfigError(f"The topology {family.__name__} {error}") from None
        return
    known = (AUTO, *TOPOLOGIES)
    if family not in known:
        raise ConfigError(
            f"There is no topology {family!r}; there are {', '.join(known)}."
            f"{nearest(str(family), known)}"
        )


def family_text(family: Family) -> str:
    """What to call a family in messages.

    Example:
        >>> from sparsify.topology import Clos
        >>> family_text(Clos), family_text(Clos(4, 2)), family_text("auto")
        ('clos', 'clos(ingress=4, middle=2)', 'auto')
    """
    return family.name if isinstance(family, type) else str(family)


class Pool:
    """Fabrics of the same sizes, with their traits as arrays.

    Attributes:
        fabrics: each once.
        width: most signals that can pass, an upper bound of the rank.
        depth: stages on the longest way.
    """

    def __init__(self, fabrics: Iterable[Fabric]) -> None:
        """Look at each fabric once."""
        self.fabrics = tuple(dict.fromkeys(fabrics))
        self.width: npt.NDArray[np.int64] = np.array([f.width for f in self.fabrics], np.int64)
        self.depth: npt.NDArray[np.int64] = np.array([depth(f) for f in self.fabrics], np.int64)

    def connected(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether every input reaches every output, of the fabrics at some places."""
        return np.array([reaches_all(self.fabrics[place]) for place in places], bool)


@lru_cache(maxsize=512)
def pool(in_features: int, out_features: int, family: Family = AUTO, repeats: bool = False) -> Pool:
    """Every fabric worth considering for these sizes, whatever the budget.

    Args:
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.
        family: a name of `topologies()` or a topology; "auto" for all that have fast kernels.
        repeats: only fabrics whose copies can stand side by side (for a grouped layer).

    Returns:
        Fabrics smaller than dense; growing options in steps of a fifth.

    Example:
        >>> max(fabric.waist for fabric in pool(64, 64, "low_rank").fabrics)
        31
    """
    dense = in_features * out_features
    return Pool(
        fabric
        for topology in _topologies(in_features, out_features, family)
        for fabric in _all_sizes(topology, in_features, out_features, family)
        if fabric.parameters < dense and (fabric.repeats or not repeats)
    )


def exact_pool(
    in_features: int, out_features: int, usage: Usage, family: Family = AUTO, repeats: bool = False
) -> Pool:
    """The pool, with those fabrics added that fill a budget to the last link or rank.

    Example:
        >>> made = exact_pool(64, 64, lambda fabric: fabric.parameters / 3000, "low_rank")
        >>> any(fabric.waist == 23 for fabric in made.fabrics)
        True
    """
    grown = (
        fabric
        for topology in _topologies(in_features, out_features, family)
        if topology is not family
        for fabric in _grown(topology, in_features, out_features, usage)
        if fabric.repeats or not repeats
    )
    return Pool((*grown, *pool(in_features, out_features, family, repeats).fabrics))


def _topologies(in_features: int, out_features: int, family: Family) -> Iterator[Topology]:
    if family != AUTO:
        yield from proposals(family, in_features, out_features)
        return
    for name in TOPOLOGIES:
        if TOPOLOGIES[name].is_structured:
            yield from proposals(name, in_features, out_features)


def _all_sizes(
    topology: Topology, in_features: int, out_features: int, family: Family
) -> Iterator[Fabric]:
    """Growing options in steps; an instance that the user made has its options already."""
    if topology is family:
        yield topology.build(in_features, out_features)
        return
    size, most = 1, topology.most(in_features, out_features)
    dense = in_features * out_features
    while True:
        fabric = _of_size(topology, size).build(in_features, out_features)
        yield fabric
        if size >= most or fabric.parameters >= dense:
            return
        size = min(most, max(size + 1, int(size * _STEP)))


def _grown(
    topology: Topology, in_features: int, out_features: int, usage: Usage
) -> Iterator[Fabric]:
    """The growing option as high as the budget allows; a count of links is in proportion to it."""
    if topology.grows is None:
        return
    unit = usage(topology.build(in_features, out_features))
    if unit > 1:
        return
    count = min(math.ceil(1 / unit), topology.most(in_features, out_features))
    for size in (count, count - 1):
        fabric = _of_size(topology, max(1, size)).build(in_features, out_features)
        if usage(fabric) <= 1:
            yield fabric
            return


def _of_size(topology: Topology, size: int) -> Topology:
    if topology.grows is None or size == 1:
        return topology
    return dataclasses.replace(topology, **{topology.grows: size})
