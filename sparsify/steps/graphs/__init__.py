"""Generators of biregular bipartite graphs, one per file, in one table.

A generator computes the neighbours of every output from a few whole numbers; an exported file does
the same in standard operators (`sparsify.export.onnx.neighbours`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ConfigError, nearest
from .additive import AdditiveGraph
from .base import Graph, NodeGraph, OffsetGraph
from .circulant import Circulant
from .hypercube import Hypercube
from .paley import Paley
from .plane import Plane
from .radix import Radix
from .random_lift import RandomLift
from .torus import Torus
from .xor import Xor, XorGraph

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "GRAPHS",
    "AdditiveGraph",
    "Graph",
    "NodeGraph",
    "OffsetGraph",
    "Paley",
    "XorGraph",
    "graph_named",
]

GRAPHS: Mapping[str, Graph] = {
    "circulant": Circulant(),
    "hypercube": Hypercube(),
    "paley": Paley(),
    "plane": Plane(),
    "radix": Radix(),
    "random": RandomLift(),
    "torus": Torus(),
    "xor": Xor(),
}
"""Name -> generator. The names stand in files: they never change their meaning."""


def graph_named(name: str) -> Graph:
    """The generator of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in GRAPHS:
        raise ConfigError(
            f"There is no graph {name!r}; there are {', '.join(GRAPHS)}."
            f"{nearest(str(name), GRAPHS)}"
        )
    return GRAPHS[name]
