"""Digit by digit: each stage mixes one digit of the feature index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..fabric import Branch, Stage
from .base import Topology
from .radices import as_tuple, one_of, splits

__all__ = ["Butterfly"]


@dataclass(frozen=True)
class Butterfly(Topology):
    """A butterfly of mixed radices: one stage per digit, one path between any input and output.

    The radices multiply to the narrower width. A wider input is contracted by the first stage, a
    wider output expanded by the last, so that no stage is wider than it must be.
    Parameters kept for a square n: n times the sum of the radices.

    Args:
        radices: radix of each stage, first applied first; each 2 or more.
        radix: one radix for all stages instead; the last one is smaller where it does not divide.

    Example:
        >>> Butterfly(radices=(4, 4)).build(16, 16).parameters
        128
        >>> Butterfly(radix=2).build(16, 16).parameters
        128

    Reference:
        ClosNets, arXiv 1802.03885; Dao et al. 2019 (butterfly factorisations).
    """

    name: ClassVar[str] = "butterfly"
    radices: Sequence[int] | None = None
    radix: int | None = None

    def __post_init__(self) -> None:
        """Make the radices hashable."""
        if self.radices is not None:
            object.__setattr__(self, "radices", as_tuple(self.name, "radices", self.radices))

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """One stage per radix, from the least significant digit up."""
        radices = one_of(self.name, self.radices, self.radix, min(in_features, out_features))
        inputs, outputs = list(radices), list(radices)
        if in_features > out_features:
            inputs[0] = math.ceil(in_features / math.prod(radices[1:]))
        if out_features > in_features:
            outputs[-1] = math.ceil(out_features / math.prod(radices[:-1]))
        stages = []
        for position, (c, b) in enumerate(zip(inputs, outputs, strict=True)):
            to_do, done = math.prod(inputs[position + 1 :]), math.prod(outputs[:position])
            stages.append(Stage(to_do, b, c, done))
        return (tuple(stages),)

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Equal radices that are powers of two, one stage, every good split into two or three."""
        width = min(in_features, out_features)
        powers = (2**exponent for exponent in range(1, 7) if 2**exponent < width)
        for radix in (*powers, max(width, 2)):
            yield cls(radix=radix)
        for radices in splits(width):
            yield cls(radices=radices)
