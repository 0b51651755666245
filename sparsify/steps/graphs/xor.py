"""Graphs whose neighbours differ in the same bits."""

from __future__ import annotations

import numpy as np

from ...errors import ConfigError
from ..scramble import permutations
from .base import Indices, OffsetGraph, Options, no_options

__all__ = ["Xor", "XorGraph"]


class XorGraph(OffsetGraph):
    """Neighbour k of node j is j xor offsets[k]: a Cayley graph of bit vectors.

    The number of nodes is a power of two.
    """

    def links(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See NodeGraph."""
        words = self.offsets(nodes, degree, options, seed)
        return np.arange(nodes, dtype=np.int64)[:, None] ^ words

    def check_nodes(self, nodes: int, lowest: int) -> None:
        """Raise `ConfigError` where the number of nodes is no power of two."""
        if nodes < lowest or nodes & (nodes - 1):
            raise ConfigError(
                f"A {self.title} graph has a power of two of nodes (the narrower width), {lowest} "
                f"or more; got {nodes}."
            )


class Xor(XorGraph):
    """The words are drawn at random: the beginning of a permutation of all.

    Example:
        >>> Xor().links(4, 4, (), 0).sum(1).tolist()
        [6, 6, 6, 6]

    Reference:
        Alon and Roichman 1994 (random Cayley graphs are expanders).
    """

    def node_degree(self, nodes: int, options: Options) -> None:
        """Any degree."""
        no_options(self.title, options)
        self.check_nodes(nodes, 1)

    def offsets(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See OffsetGraph."""
        drawn: Indices = permutations(1, nodes, seed)[0, :degree]
        return drawn
