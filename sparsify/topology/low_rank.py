"""Two dense factors with a narrow waist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..fabric import Branch, Stage
from .base import Topology, check_range

__all__ = ["LowRank"]


@dataclass(frozen=True)
class LowRank(Topology):
    """A product of two dense matrices through `rank` features.

    The yardstick that every other family has to beat: as fast, but only `rank` directions pass.

    Args:
        rank: width of the waist, 1 to min(in_features, out_features).

    Example:
        >>> LowRank(rank=4).build(16, 16).parameters
        128
    """

    name: ClassVar[str] = "low_rank"
    grows: ClassVar[str | None] = "rank"
    rank: int

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """Two stages of one block each."""
        rank = check_range(self.name, "rank", self.rank, min(in_features, out_features))
        return ((Stage(1, rank, in_features, 1), Stage(1, out_features, rank, 1)),)

    def most(self, in_features: int, out_features: int) -> int:
        """Full rank."""
        return min(in_features, out_features)

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Rank 1, grown into the budget."""
        yield cls(rank=1)
