"""The links of a torus."""

from __future__ import annotations

import math

import numpy as np

from ...errors import ConfigError
from .base import Indices, NodeGraph, Options

__all__ = ["Torus"]


class Torus(NodeGraph):
    """Nodes stand in a grid whose opposite ends meet; each reads itself and the nodes beside it.

    The options are the sides of the grid, row-major. Neighbour 0 is the node itself, then along
    each axis follow the next one and the one before; one neighbour along a side of 2, none along 1.

    Example:
        >>> Torus().links(6, 4, (3, 2), 0)[0].tolist()
        [0, 2, 4, 1]
    """

    def node_degree(self, nodes: int, options: Options) -> int:
        """Two per axis and one, fewer along sides of 1 and 2."""
        if not options or min(options) < 1 or math.prod(options) != nodes:
            raise ConfigError(
                f"A torus graph has as options its sides, each 1 or more, whose product is its "
                f"{nodes} nodes; got {options}."
            )
        return 1 + sum(len(_moves(side)) for side in options)

    def links(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See NodeGraph."""
        own = np.arange(nodes, dtype=np.int64)
        found = [own]
        for axis, side in enumerate(options):
            apart = math.prod(options[axis + 1 :])
            place = own // apart % side
            found += [own + ((place + move) % side - place) * apart for move in _moves(side)]
        return np.stack(found, axis=1)


def _moves(side: int) -> tuple[int, ...]:
    return ((), (1,))[side - 1] if side < 3 else (1, -1)
