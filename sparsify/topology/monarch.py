"""Two block-diagonal stages with a transposition between them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError
from ..fabric import Branch, Stage
from .base import Topology, block_counts, check_range, is_balanced

__all__ = ["Monarch"]

_LOPSIDED = 32


@dataclass(frozen=True)
class Monarch(Topology):
    """Input blocks of neighbouring features, each linked to every output block.

    `blocks_in` blocks read the input, `blocks_out` strided blocks write the output, and `links`
    features connect each pair, so that every pair of an input and an output has `links` paths.
    Parameters kept: links * (blocks_out * in_features + blocks_in * out_features).

    Args:
        blocks: both numbers of blocks at once.
        blocks_in: blocks of the input, 1 to in_features.
        blocks_out: blocks of the output, 1 to out_features.
        links: features between each pair of blocks, 1 or more.

    Example:
        >>> fabric = Monarch(blocks=4).build(16, 16)
        >>> fabric.parameters, int(fabric.paths().min()), int(fabric.paths().max())
        (128, 1, 1)

    Reference:
        Dao et al. 2022 (Monarch); several links make the block SVD of rank `links` its projection.
    """

    name: ClassVar[str] = "monarch"
    grows: ClassVar[str | None] = "links"
    blocks: int | None = None
    blocks_in: int | None = None
    blocks_out: int | None = None
    links: int = 1

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """Two stages that share the hidden index (input block, link, output block)."""
        blocks_in, blocks_out = self._blocks()
        check_range(self.name, "blocks_in", blocks_in, in_features)
        check_range(self.name, "blocks_out", blocks_out, out_features)
        links = check_range(self.name, "links", self.links, max(in_features, out_features))
        inputs, outputs = math.ceil(in_features / blocks_in), math.ceil(out_features / blocks_out)
        first = Stage(blocks_in, links * blocks_out, inputs, 1)
        second = Stage(1, outputs, links * blocks_in, blocks_out)
        return ((first, second),)

    def _blocks(self) -> tuple[int, int]:
        both = (self.blocks_in, self.blocks_out)
        if self.blocks is not None and both == (None, None):
            return self.blocks, self.blocks
        if self.blocks is None and self.blocks_in is not None and self.blocks_out is not None:
            return self.blocks_in, self.blocks_out
        raise ConfigError(
            "monarch needs blocks=, or blocks_in= and blocks_out=; got "
            f"blocks={self.blocks}, blocks_in={self.blocks_in}, blocks_out={self.blocks_out}."
        )

    def most(self, in_features: int, out_features: int) -> int:
        """Links up to a hidden layer as wide as the wider side: more is no longer monotone."""
        blocks_in, blocks_out = self._blocks()
        return max(1, max(in_features, out_features) // (blocks_in * blocks_out))

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Every pair of block counts whose hidden layer is not wider than the wider side."""
        widest = 1.25 * max(in_features, out_features)
        for blocks_in in block_counts(in_features):
            for blocks_out in block_counts(out_features):
                if blocks_in * blocks_out > widest:
                    break
                if is_balanced(in_features / blocks_in, out_features / blocks_out, _LOPSIDED):
                    yield cls.of(blocks_in, blocks_out)

    @classmethod
    def of(cls, blocks_in: int, blocks_out: int, links: int = 1) -> Monarch:
        """With both numbers of blocks, in the shorter form where they are equal."""
        if blocks_in == blocks_out:
            return cls(blocks=blocks_in, links=links)
        return cls(blocks_in=blocks_in, blocks_out=blocks_out, links=links)
