"""One stage of independent blocks: the sparsest full-rank fabric."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError
from ..fabric import Branch, Stage
from .base import Topology, block_counts, check_range

__all__ = ["BlockDiagonal"]

_MOST_DOUBLED = 0.05
_FINE = 1.1  # its only option has to fill every budget


@dataclass(frozen=True)
class BlockDiagonal(Topology):
    """One block-diagonal stage; `strided` blocks take every blocks-th feature.

    Two stacked layers of the same kind never mix their blocks; a contiguous one followed by a
    strided one does, as one stage of a butterfly follows another. Parameters kept: 1 / blocks.

    Args:
        blocks: number of blocks, 1 to min(in_features, out_features).
        strided: whether the features of a block lie `blocks` apart instead of side by side.
        stride: how far apart the features of a block lie, a divisor of blocks; in between the two.

    Example:
        >>> BlockDiagonal(blocks=4).build(16, 8).parameters
        32
    """

    name: ClassVar[str] = "block_diagonal"
    blocks: int
    strided: bool = False
    stride: int | None = None

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """One stage; uneven widths wrap and fold."""
        if not isinstance(self.strided, bool):
            raise ConfigError(
                f"block_diagonal: strided must be True or False; got {self.strided!r}."
            )
        highest = min(in_features, out_features)
        blocks = check_range(self.name, "blocks", self.blocks, highest)
        outputs, inputs = math.ceil(out_features / blocks), math.ceil(in_features / blocks)
        stride = self._stride(blocks)
        return ((Stage(blocks // stride, outputs, inputs, stride),),)

    def _stride(self, blocks: int) -> int:
        if self.stride is None:
            return blocks if self.strided else 1
        if self.strided:
            raise ConfigError("block_diagonal takes strided= or stride=, not both.")
        stride = check_range(self.name, "stride", self.stride, blocks)
        if blocks % stride:
            raise ConfigError(f"block_diagonal: stride must divide {blocks} blocks; got {stride}.")
        return stride

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Every number of blocks that cuts one of the widths well."""
        narrow = min(in_features, out_features)
        widths = (in_features, out_features, math.gcd(in_features, out_features))
        counts = {count for width in widths for count in block_counts(width, _FINE)}
        for blocks in sorted(count for count in counts if count <= narrow):
            outputs, inputs = math.ceil(out_features / blocks), math.ceil(in_features / blocks)
            surplus = (blocks * outputs - out_features) * (blocks * inputs - in_features)
            # Where an input wraps and an output folds, two weights join the same pair of features.
            if surplus <= _MOST_DOUBLED * blocks * outputs * inputs:
                yield cls(blocks)
