"""RadiX-Nets: butterflies without blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..fabric import Branch, GraphStage
from .base import Topology
from .nodes import check_stages, degrees, node_sizes, node_widths, rarely_doubled
from .radices import as_tuple, equal_radices, reaching

__all__ = ["RadixNet"]


@dataclass(frozen=True)
class RadixNet(Topology):
    """Mixed radices around a ring: a stage links node j to j + k * (product of the radices before).

    As in a butterfly, the digits of a distance are chosen one after the other; but the links turn
    with the node, so that every node is alike and the radices need not divide anything: where they
    multiply to more than the nodes, some pairs have two paths.
    Parameters kept for a square n: n times the sum of the radices of the stages.

    Args:
        radices: radix of each stage, first applied first, each 2 or more. They multiply to the
            number of nodes (the narrower width, where it divides the wider one), or to the next
            number that the last radix can reach.
        stages: how many stages there are, 1 to 16; all radices unless given. Beyond the end of the
            list it starts again.

    Example:
        >>> fabric = RadixNet(radices=(4, 4)).build(16, 16)
        >>> fabric.parameters, int(fabric.paths().min()), int(fabric.paths().max())
        (128, 1, 1)

    Reference:
        Kepner and Robinett 2019, RadiX-Net: structured sparse matrices for deep neural networks.
    """

    name: ClassVar[str] = "radix_net"
    is_structured: ClassVar[bool] = False
    radices: Sequence[int]
    stages: int | None = None

    def __post_init__(self) -> None:
        """Make the radices hashable."""
        object.__setattr__(self, "radices", as_tuple(self.name, "radices", self.radices))

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """One graph per stage, as wide as the nodes in between."""
        nodes = node_sizes(in_features, out_features)
        what = f"the nodes of {in_features} -> {out_features}"
        radices = reaching(self.name, tuple(self.radices), nodes, what)
        stages = len(radices)
        if self.stages is not None:
            stages = check_stages(self.name, self.stages, stages)
        widths = itertools.pairwise(node_widths(in_features, out_features, nodes, stages))
        steps = [math.prod(radices[:place]) for place in range(len(radices))]
        rounds = itertools.cycle(zip(radices, steps, strict=True))
        return (
            tuple(
                GraphStage("radix", inputs, outputs, radix * inputs // nodes, (radix, step))
                for (inputs, outputs), (radix, step) in zip(widths, rounds, strict=False)
            ),
        )

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Equal radices with any number of stages, and two radices of any proportion."""
        settings = cls._settings(in_features, out_features)
        return rarely_doubled(settings, in_features, out_features)

    @classmethod
    def _settings(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        nodes = node_sizes(in_features, out_features)
        powers = (2**exponent for exponent in range(1, 7) if 2**exponent < nodes)
        for radix in (*powers, max(nodes, 2)):
            radices = equal_radices(radix, nodes)
            for stages in range(1, len(radices)):
                yield cls(radices, stages)
            yield cls(radices)
        for first in degrees(2, max(2, nodes // 2)):
            if first < nodes:
                yield cls((first, math.ceil(nodes / first)))
