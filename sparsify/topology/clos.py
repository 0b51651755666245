"""Three ranks of switches with several disjoint paths between any two ports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..fabric import Branch, Stage
from .base import Topology, block_counts, check_range, is_balanced

__all__ = ["Clos"]

_LOPSIDED = 4


@dataclass(frozen=True)
class Clos(Topology):
    """A Clos network: ingress, middle and egress switches, `middle` paths per pair.

    Each ingress switch takes in_features / ingress inputs to `middle` links, one to each middle
    switch; each middle switch joins all ingress with all egress switches.
    Parameters kept, for egress = ingress: middle * (in_features + out_features + ingress**2).

    Args:
        ingress: ingress switches, 1 to in_features.
        middle: middle switches, 1 or more.
        egress: egress switches, 1 to out_features; as many as ingress unless given.

    Example:
        >>> fabric = Clos(ingress=4, middle=2).build(16, 16)
        >>> fabric.parameters, int(fabric.paths().min()), int(fabric.paths().max())
        (96, 2, 2)

    Reference:
        ClosNets, arXiv 1802.03885.
    """

    name: ClassVar[str] = "clos"
    grows: ClassVar[str | None] = "middle"
    ingress: int
    middle: int
    egress: int | None = None

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """Three stages: (switch, input) to (switch, link), a transposition, and back."""
        egress = self.ingress if self.egress is None else self.egress
        ingress = check_range(self.name, "ingress", self.ingress, in_features)
        check_range(self.name, "egress", egress, out_features)
        middle = check_range(self.name, "middle", self.middle, max(in_features, out_features))
        inputs, outputs = math.ceil(in_features / ingress), math.ceil(out_features / egress)
        return (
            (
                Stage(ingress, middle, inputs, 1),
                Stage(1, egress, ingress, middle),
                Stage(egress, outputs, middle, 1),
            ),
        )

    def most(self, in_features: int, out_features: int) -> int:
        """Middle switches up to ranks as wide as the wider side."""
        egress = self.ingress if self.egress is None else self.egress
        return max(1, max(in_features, out_features) // max(self.ingress, egress))

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Equal numbers of ingress and egress switches; an own number each where they differ."""
        narrow = min(in_features, out_features)
        for ingress in block_counts(in_features):
            for egress in block_counts(out_features):
                if ingress == egress:
                    yield cls(ingress=ingress, middle=1)
                elif (
                    in_features != out_features
                    and ingress * egress <= narrow
                    and is_balanced(in_features / ingress, out_features / egress, _LOPSIDED)
                ):
                    yield cls(ingress=ingress, middle=1, egress=egress)
