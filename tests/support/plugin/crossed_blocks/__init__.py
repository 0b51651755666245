"""Two block diagonals side by side, one with neighbouring features, one with strided ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from sparsify.fabric import Branch, Stage
from sparsify.topology import Topology


@dataclass(frozen=True)
class CrossedBlocks(Topology):
    """The sum of both diagonals: every feature meets its neighbours and some far ones."""

    name: ClassVar[str] = "crossed_blocks"
    blocks: int

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        outputs, inputs = (math.ceil(size / self.blocks) for size in (out_features, in_features))
        near = Stage(self.blocks, outputs, inputs, 1)
        far = Stage(1, outputs, inputs, self.blocks)
        return ((near,), (far,))

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        common = math.gcd(in_features, out_features)
        return (cls(blocks) for blocks in range(1, common + 1) if common % blocks == 0)
