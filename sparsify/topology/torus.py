"""Tori: rings, grids whose ends meet, and their higher kin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError
from ..fabric import Branch, GraphStage
from ..steps import GRAPHS
from ..steps.graphs import NodeGraph
from .base import Topology, check_range
from .nodes import check_stages, node_widths
from .radices import as_tuple

__all__ = ["Torus"]

_STAGES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Torus(Topology):
    """Nodes in a grid whose opposite ends meet; each reads itself and the nodes beside it.

    Local and very sparse, for features with a place in space; a few stages reach as many steps
    far. The wider side has several features per node; what does not fit wraps.
    Parameters kept for a square n: n * (1 + 2 * axes) per stage.

    Args:
        dims: sides of the grid, row-major; they multiply to the narrower width.
        stages: how often the torus is applied, 1 to 16.

    Example:
        >>> Torus(dims=(8, 8)).build(64, 64).parameters
        320
    """

    name: ClassVar[str] = "torus"
    is_structured: ClassVar[bool] = False
    dims: Sequence[int]
    stages: int = 1

    def __post_init__(self) -> None:
        """Make the sides hashable."""
        object.__setattr__(self, "dims", as_tuple(self.name, "dims", self.dims))

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """The same graph, stage after stage, as wide as the narrower side in between."""
        nodes = min(in_features, out_features)
        dims = tuple(check_range(self.name, "each of dims", side, nodes) for side in self.dims)
        if not dims or math.prod(dims) != nodes:
            raise ConfigError(
                f"torus: dims must multiply to {nodes}, the narrower width; {dims} multiply to "
                f"{math.prod(dims)}."
            )
        stages = check_stages(self.name, self.stages)
        widths = node_widths(in_features, out_features, nodes, stages)
        graph = GRAPHS["torus"]
        assert isinstance(graph, NodeGraph)
        links = graph.node_degree(nodes, dims) or 0
        return (
            tuple(
                GraphStage("torus", inputs, outputs, links * inputs // nodes, dims)
                for inputs, outputs in itertools.pairwise(widths)
            ),
        )

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Rings, grids and boxes of any proportions, one to four stages."""
        for dims in _boxes(min(in_features, out_features)):
            for stages in _STAGES:
                yield cls(dims, stages)


def _boxes(nodes: int) -> Iterator[tuple[int, ...]]:
    divisors = [side for side in range(2, nodes) if nodes % side == 0]
    yield (nodes,)
    for first in divisors:
        rest = nodes // first
        if first <= rest:
            yield (first, rest)
            yield from (
                (first, second, rest // second)
                for second in divisors
                if first <= second <= math.isqrt(rest) and rest % second == 0
            )
