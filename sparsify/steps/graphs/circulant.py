"""Random circulant graphs."""

from __future__ import annotations

from ..scramble import permutations
from .additive import AdditiveGraph
from .base import Indices, Options, no_options

__all__ = ["Circulant"]


class Circulant(AdditiveGraph):
    """The offsets are drawn at random: the beginning of a permutation of all.

    Example:
        >>> links = Circulant().links(8, 3, (), 0)
        >>> ((links - links[0]) % 8 == [[j] * 3 for j in range(8)]).all().item()
        True

    Reference:
        Alon and Roichman 1994 (random Cayley graphs are expanders).
    """

    def node_degree(self, nodes: int, options: Options) -> None:
        """Any degree."""
        no_options(self.title, options)

    def offsets(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See OffsetGraph."""
        drawn: Indices = permutations(1, nodes, seed)[0, :degree]
        return drawn
