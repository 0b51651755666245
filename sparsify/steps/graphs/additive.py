"""Graphs whose neighbours are sums, modulo the number of nodes."""

from __future__ import annotations

import numpy as np

from .base import Indices, OffsetGraph, Options

__all__ = ["AdditiveGraph"]


class AdditiveGraph(OffsetGraph):
    """Neighbour k of node j is (j + offsets[k]) modulo nodes: a Cayley graph of a cyclic group."""

    def links(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See NodeGraph."""
        offsets = self.offsets(nodes, degree, options, seed)
        return (np.arange(nodes, dtype=np.int64)[:, None] + offsets) % nodes
