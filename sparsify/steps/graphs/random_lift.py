"""Random biregular graphs."""

from __future__ import annotations

import numpy as np

from ...errors import ConfigError
from ..scramble import permutations
from .base import Graph, Indices, Options, no_options

__all__ = ["RandomLift"]


class RandomLift(Graph):
    """A random lift of a complete bipartite graph.

    The inputs fall into `degree` classes of m neighbours, the outputs into classes of m too. Each
    pair of classes is joined by a pseudo-random matching of its own. So every output has one input
    of each class, and the second singular value is that of a random regular graph: close to
    2 * sqrt(degree - 1), the Ramanujan bound.

    Example:
        >>> RandomLift().neighbours(4, 4, 2, (), 0).shape
        (4, 2)

    Reference:
        Sparse Neural Networks Topologies, arXiv 1706.05683 (random regular graphs); Friedman and
        Kohler 2014 (spectra of random lifts).
    """

    def check(self, in_features: int, out_features: int, degree: int, options: Options) -> None:
        """See Graph."""
        no_options("random", options)
        if degree > in_features or in_features % degree or out_features % (in_features // degree):
            raise ConfigError(
                f"A random graph needs a degree that divides {in_features} inputs into classes of "
                f"a size that divides {out_features} outputs; got degree {degree}."
            )

    def neighbours(
        self, in_features: int, out_features: int, degree: int, options: Options, seed: int
    ) -> Indices:
        """See Graph."""
        size = in_features // degree
        classes = out_features // size
        matchings = permutations(classes * degree, size, seed).reshape(classes, degree, size)
        reads = matchings + size * np.arange(degree)[:, None]
        return reads.transpose(0, 2, 1).reshape(out_features, degree)
