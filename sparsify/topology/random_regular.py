"""Random graphs with the same degree everywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..fabric import Branch, GraphStage
from .base import Topology, check_range, check_seed
from .nodes import MOST_STAGES, check_stages, degrees, lift_widths, rarely_doubled

__all__ = ["RandomRegular"]

_STAGES = (1, 2, 3)


@dataclass(frozen=True)
class RandomRegular(Topology):
    """Every output reads `degree` inputs drawn at random, every input has as many readers.

    What unstructured sparsity gives at best: nearly optimal spectral gaps at any size. The widths
    are rounded up as the draw needs it, by less than `degree` features; the surplus wraps.
    Parameters kept for a square n: n * degree per stage.

    Args:
        degree: weights per output of every stage, in_features / out_features to in_features: with
            fewer some inputs would have no reader.
        stages: graphs in a row, 1 to 16, each drawn anew; in between, about as many features as on
            the narrower side.
        seed: of the draws, 0 to 2**31 - 1.

    Example:
        >>> RandomRegular(degree=8).build(64, 64).parameters
        512

    Reference:
        Sparse Neural Networks Topologies, arXiv 1706.05683.
    """

    name: ClassVar[str] = "random_regular"
    is_structured: ClassVar[bool] = False
    degree: int
    stages: int = 1
    seed: int = 0

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """Random lifts."""
        lowest = math.ceil(in_features / out_features)
        degree = check_range(self.name, "degree", self.degree, in_features, lowest)
        stages = check_stages(self.name, self.stages)
        first = MOST_STAGES * check_seed(self.name, self.seed)
        widths = itertools.pairwise(lift_widths(in_features, out_features, degree, stages))
        return (
            tuple(
                GraphStage("random", inputs, outputs, degree, seed=first + stage)
                for stage, (inputs, outputs) in enumerate(widths)
            ),
        )

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Degrees some per cent apart, one to three stages."""
        settings = cls._settings(in_features, out_features)
        return rarely_doubled(settings, in_features, out_features)

    @classmethod
    def _settings(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        lowest = math.ceil(in_features / out_features)
        for degree in degrees(lowest, in_features):
            for stages in _STAGES:
                yield cls(degree, stages)
