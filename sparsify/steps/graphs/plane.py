"""The lines and points of a finite plane."""

from __future__ import annotations

import math

import numpy as np

from ...errors import ConfigError
from .base import Indices, NodeGraph, Options, no_options
from .numbers import is_prime

__all__ = ["Plane"]


class Plane(NodeGraph):
    """Points and lines of the affine plane over the numbers modulo a prime q, lines x = c left out.

    Node m * q + c, the line y = m * x + c, reads the points x * q + y on it. No two lines share two
    points, so that the second singular value is sqrt(q) / q: below the Ramanujan bound.

    Example:
        >>> Plane().links(9, 3, (), 0)[5].tolist()
        [2, 3, 7]

    Reference:
        Reiman 1958 (incidence graphs without squares).
    """

    def node_degree(self, nodes: int, options: Options) -> int:
        """The prime."""
        no_options(self.title, options)
        prime = math.isqrt(nodes)
        if prime * prime != nodes or not is_prime(prime):
            raise ConfigError(
                f"A plane graph has the square of a prime (4, 9, 25, 49, 121, ...) as number of "
                f"nodes (the narrower width); got {nodes}."
            )
        return prime

    def links(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See NodeGraph."""
        m, c, x = np.ogrid[:degree, :degree, :degree]
        points: Indices = x * degree + (m * x + c) % degree
        return points.reshape(nodes, degree)
