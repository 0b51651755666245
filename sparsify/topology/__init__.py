"""Families of fabrics, one per file, in one table.

To add a family: one file with a `Topology`, one line below (or an entry point of the group
`sparsify.topologies` in a package of your own). Without either, an instance of your own subclass
stands wherever a name does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigError, nearest
from ..fabric import Fabric
from ..registry import Registry
from .base import Topology
from .block_diagonal import BlockDiagonal
from .butterfly import Butterfly
from .clos import Clos
from .expander import Expander
from .hypercube import Hypercube
from .low_rank import LowRank
from .monarch import Monarch
from .parallel_butterfly import ParallelButterfly
from .plugins import check_family, proposals_of
from .radix_net import RadixNet
from .random_regular import RandomRegular
from .torus import Torus

__all__ = [
    "TOPOLOGIES",
    "BlockDiagonal",
    "Butterfly",
    "Clos",
    "Expander",
    "Family",
    "Hypercube",
    "LowRank",
    "Monarch",
    "ParallelButterfly",
    "RadixNet",
    "RandomRegular",
    "Topology",
    "Torus",
    "build",
    "proposals",
    "topologies",
]

TOPOLOGIES = Registry(
    "topology",
    "sparsify.topologies",
    {
        "block_diagonal": ".topology.block_diagonal:BlockDiagonal",
        "low_rank": ".topology.low_rank:LowRank",
        "monarch": ".topology.monarch:Monarch",
        "clos": ".topology.clos:Clos",
        "butterfly": ".topology.butterfly:Butterfly",
        "parallel_butterfly": ".topology.parallel_butterfly:ParallelButterfly",
        "hypercube": ".topology.hypercube:Hypercube",
        "torus": ".topology.torus:Torus",
        "random_regular": ".topology.random_regular:RandomRegular",
        "expander": ".topology.expander:Expander",
        "radix_net": ".topology.radix_net:RadixNet",
    },
    check=check_family,
)


def topologies() -> tuple[str, ...]:
    """The names of all families, plug-ins included.

    Example:
        >>> "monarch" in topologies()
        True
    """
    return tuple(TOPOLOGIES)


Family = str | type[Topology] | Topology
"""A name of `topologies()`, a class of your own, or an instance of either with its options."""


def proposals(family: Family, in_features: int, out_features: int) -> Iterator[Topology]:
    """Settings of a family from which a budget is filled; an instance proposes itself alone.

    Args:
        family: a name of `topologies()`, or a topology of your own, with or without its options.
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.

    Raises:
        ConfigError: unknown family, or a plug-in whose candidates are none.

    Example:
        >>> [str(topology) for topology in proposals("low_rank", 8, 8)]
        ['low_rank(rank=1)']
    """
    if isinstance(family, Topology):
        yield family
        return
    if isinstance(family, type):
        yield from proposals_of(family, in_features, out_features)
        return
    yield from proposals_of(TOPOLOGIES[family], in_features, out_features)


def build(name: Family, in_features: int, out_features: int, options: dict[str, Any]) -> Fabric:
    """Make a fabric of a named family from its options.

    Args:
        name: a name of `topologies()`, or a topology that has its options already.
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.
        options: the family's options by name.

    Raises:
        ConfigError: unknown family or option, or an option is missing or out of range.

    Example:
        >>> build("low_rank", 8, 8, {"rank": 2}).parameters
        32
    """
    if isinstance(name, Topology):
        if options:
            raise ConfigError(
                f"{name} has its options already; got {', '.join(options)} beside it. "
                f"Pass its name, {name.name!r}, or no options."
            )
        return name.build(in_features, out_features)
    family = name if isinstance(name, type) else TOPOLOGIES[name]
    name = family.name
    fields = {field.name: field for field in dataclasses.fields(family)}
    for option in options:
        if option not in fields:
            raise ConfigError(
                f"{name} has no option {option!r}; it has {', '.join(fields)}."
                f"{nearest(option, fields)}"
            )
    missing = [
        key for key, f in fields.items() if f.default is dataclasses.MISSING and key not in options
    ]
    if missing:
        raise ConfigError(
            f"{name} needs the option {missing[0]}=, or a budget= instead of options."
        )
    topology: Topology = family(**options)
    return topology.build(in_features, out_features)
