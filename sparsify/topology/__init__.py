"""Families of fabrics, one per file, in one table.

To add a family: one file with a `Topology`, one line below (or an entry point of the group
`sparsify.topologies` in a package of your own).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import ConfigError, nearest
from ..fabric import Fabric
from ..registry import Registry
from .base import Topology
from .block_diagonal import BlockDiagonal
from .butterfly import Butterfly
from .clos import Clos
from .low_rank import LowRank
from .monarch import Monarch

__all__ = [
    "TOPOLOGIES",
    "BlockDiagonal",
    "Butterfly",
    "Clos",
    "LowRank",
    "Monarch",
    "Topology",
    "build",
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
    },
)


def topologies() -> tuple[str, ...]:
    """The names of all families, plug-ins included.

    Example:
        >>> "monarch" in topologies()
        True
    """
    return tuple(TOPOLOGIES)


def build(name: str, in_features: int, out_features: int, options: dict[str, Any]) -> Fabric:
    """Make a fabric of a named family from its options.

    Args:
        name: a name of `topologies()`.
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.
        options: the family's options by name.

    Raises:
        ConfigError: unknown family or option, or an option is missing or out of range.

    Example:
        >>> build("low_rank", 8, 8, {"rank": 2}).parameters
        32
    """
    family = TOPOLOGIES[name]
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
