"""The edges of a hypercube."""

from __future__ import annotations

import numpy as np

from .base import Indices, Options, no_options
from .xor import XorGraph

__all__ = ["Hypercube"]


class Hypercube(XorGraph):
    """Node i is linked to the nodes whose numbers differ from i in one bit, not to itself.

    Example:
        >>> Hypercube().links(4, 2, (), 0).tolist()
        [[1, 2], [0, 3], [3, 0], [2, 1]]
    """

    def node_degree(self, nodes: int, options: Options) -> int:
        """One neighbour per bit."""
        no_options(self.title, options)
        self.check_nodes(nodes, 2)
        return nodes.bit_length() - 1

    def offsets(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See OffsetGraph: the powers of two."""
        return np.int64(1) << np.arange(degree, dtype=np.int64)
