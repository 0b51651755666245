"""Graphs with a large spectral gap, built or searched for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError, nearest
from ..fabric import Branch, GraphStage, Weighted
from ..steps.graphs.numbers import is_prime
from .base import Topology, check_range, check_seed
from .explicit import explicit
from .nodes import (
    MOST_STAGES,
    check_stages,
    degrees,
    lift_widths,
    node_sizes,
    node_widths,
    rarely_doubled,
)
from .search import DRAWS, best_lift, best_offsets
from .spectra import ramanujan_bound

__all__ = ["Expander"]

_KINDS = ("circulant", "cayley", "ramanujan")


@dataclass(frozen=True)
class Expander(Topology):
    """Graphs whose second singular value is small, so that every set of features spreads fast.

    * circulant: a ring with the same links everywhere, the best of 32 draws; any size.
    * cayley: powers of one number where the narrower width is a prime and the links per node divide
      it less 1; links by xor, the best of 32 draws, where it is a power of two.
    * ramanujan: an explicit graph within the Ramanujan bound where one is known (a complete graph,
      a finite plane, power residues); else random graphs are drawn until one meets it, 32 at most,
      and the fabric's family says what was reached.

    Parameters kept for a square n: n * degree per stage.

    Args:
        degree: weights per output of every stage, up to the features that it reads. Where the
            input is wider, a multiple of the features per node (ramanujan: in_features /
            out_features or more).
        kind: "circulant", "cayley" or "ramanujan".
        stages: graphs in a row, 1 to 16; in between, as many features as on the narrower side.
        seed: of the draws, 0 to 2**31 - 1.

    Example:
        >>> Expander(degree=6, kind="ramanujan").build(49, 49).family
        "expander(degree=6, kind='ramanujan') [searched: sigma2 0.738, bound 0.745]"
        >>> Expander(degree=7, kind="ramanujan").build(49, 49).stages[0].graph
        'plane'

    Reference:
        Alon and Roichman 1994 (random Cayley graphs); Friedman 2003 (random graphs are nearly
        Ramanujan); Lubotzky, Phillips and Sarnak 1988.
    """

    name: ClassVar[str] = "expander"
    is_structured: ClassVar[bool] = False
    degree: int
    kind: str = "circulant"
    stages: int = 1
    seed: int = 0

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """One graph per stage."""
        if self.kind == "ramanujan":
            found = self._explicit(in_features, out_features)
            return (found or tuple(s for s, _ in self._searched(in_features, out_features)),)
        return (tuple(self._cayley(in_features, out_features)),)

    def describe(self, in_features: int, out_features: int) -> str:
        """The call, and for a search what it reached against the bound (of its worst stage)."""
        if self.kind != "ramanujan" or self._explicit(in_features, out_features):
            return str(self)
        searched = self._searched(in_features, out_features)
        values = [(sigma2, _bound(stage)) for stage, sigma2 in searched]
        sigma2, bound = max(values, key=lambda pair: pair[0] - pair[1])
        return f"{self} [searched: sigma2 {sigma2:.3f}, bound {bound:.3f}]"

    def _cayley(self, in_features: int, out_features: int) -> Iterator[GraphStage]:
        """Stages of kind circulant or cayley."""
        if self.kind not in _KINDS:
            raise ConfigError(
                f"expander: kind must be one of {_KINDS}; got {self.kind!r}."
                f"{nearest(str(self.kind), _KINDS)}"
            )
        nodes = min(in_features, out_features)
        if self.kind == "circulant":
            nodes = node_sizes(in_features, out_features)
        for first, inputs, outputs in self._places(in_features, out_features, nodes):
            per_node = inputs // nodes
            degree = check_range(self.name, "degree", self.degree, inputs, per_node)
            if degree % per_node:
                raise ConfigError(
                    f"expander: degree must be a multiple of {per_node}, the inputs per node, up "
                    f"to {inputs}; got {degree}."
                )
            graph, seed = self.kind, 0
            if self.kind == "cayley":
                graph = _cayley_graph(nodes, degree // per_node)
            if graph != "paley":
                seed, _ = best_offsets(graph, nodes, degree // per_node, first)
            yield GraphStage(graph, inputs, outputs, degree, seed=seed)

    def _places(
        self, in_features: int, out_features: int, nodes: int
    ) -> Iterator[tuple[int, int, int]]:
        """Of each stage the first seed to try and the widths."""
        widths = node_widths(in_features, out_features, nodes, self._stages())
        for stage, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            yield self._first_seed(stage), inputs, outputs

    def _stages(self) -> int:
        return check_stages(self.name, self.stages)

    def _first_seed(self, stage: int) -> int:
        return DRAWS * (MOST_STAGES * check_seed(self.name, self.seed) + stage)

    def _explicit(self, in_features: int, out_features: int) -> tuple[Weighted, ...]:
        """Stages of kind ramanujan by construction, none where one of them has none."""
        self._check_degree(in_features, out_features)
        nodes = min(in_features, out_features)
        if max(in_features, out_features) % nodes:
            return ()
        places = self._places(in_features, out_features, nodes)
        stages = [explicit(inputs, outputs, self.degree) for _, inputs, outputs in places]
        return tuple(stage for stage in stages if stage) if all(stages) else ()

    def _searched(self, in_features: int, out_features: int) -> list[tuple[GraphStage, float]]:
        degree = self._check_degree(in_features, out_features)
        widths = lift_widths(in_features, out_features, degree, self._stages())
        return [
            best_lift(inputs, outputs, degree, self._first_seed(stage))
            for stage, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        ]

    def _check_degree(self, in_features: int, out_features: int) -> int:
        lowest = math.ceil(in_features / out_features)
        return check_range(self.name, "degree", self.degree, in_features, lowest)

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Circulants of degrees some per cent apart, two where they can reach all; a plane."""
        settings = cls._settings(in_features, out_features)
        return rarely_doubled(settings, in_features, out_features)

    @classmethod
    def _settings(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        nodes = node_sizes(in_features, out_features)
        per_node = math.ceil(in_features / nodes)
        for links in degrees(1, nodes, 1.15):
            yield cls(links * per_node)
            if links * per_node <= nodes // 2 and links**2 >= nodes:
                yield cls(links * per_node, stages=2)
        side = math.isqrt(nodes)
        if side * side == nodes and explicit(nodes, nodes, side):
            yield cls(side * per_node, "ramanujan")


def _cayley_graph(nodes: int, links: int) -> str:
    if is_prime(nodes) and (nodes - 1) % links == 0:
        return "paley"
    if nodes & (nodes - 1) == 0:
        return "xor"
    divisors = [d for d in range(1, nodes) if (nodes - 1) % d == 0]
    raise ConfigError(
        f"expander: kind='cayley' needs a narrower width that is a power of two, or a prime with "
        f"links per node that divide it less 1; got {nodes} nodes and {links} links"
        + (f", allowed are {divisors}." if is_prime(nodes) else ". Take kind='circulant'.")
    )


def _bound(stage: GraphStage) -> float:
    return ramanujan_bound(stage.degree, stage.out_features * stage.degree / stage.in_features)
