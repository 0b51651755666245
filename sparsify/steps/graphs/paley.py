"""Generalised Paley graphs."""

from __future__ import annotations

import numpy as np

from ...errors import ConfigError
from .additive import AdditiveGraph
from .base import Indices, Options, no_options
from .numbers import element_of_order, is_prime

__all__ = ["Paley"]


class Paley(AdditiveGraph):
    """The offsets are the powers of one number h modulo a prime: a group of power residues.

    `nodes` is a prime p, the degree divides p - 1, offset k is h**k mod p with h of that order
    (see `element_of_order`). A Paley graph has degree (p - 1) / 2.

    Example:
        >>> Paley().links(7, 3, (), 0)[0].tolist()
        [1, 4, 2]

    Reference:
        Lim and Praeger 2009, On generalised Paley graphs and their automorphism groups.
    """

    def node_degree(self, nodes: int, options: Options) -> None:
        """Any divisor of nodes - 1, see `check`."""
        no_options(self.title, options)
        if not is_prime(nodes):
            raise ConfigError(
                f"A paley graph has a prime number of nodes (the narrower width); got {nodes}."
            )

    def check(self, in_features: int, out_features: int, degree: int, options: Options) -> None:
        """See Graph."""
        super().check(in_features, out_features, degree, options)
        nodes = min(in_features, out_features)
        links = degree // (in_features // nodes)
        if (nodes - 1) % links:
            raise ConfigError(
                f"A paley graph of {nodes} nodes has as many links per node as a divisor of "
                f"{nodes - 1}; got {links}."
            )

    def offsets(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See OffsetGraph: the powers of h."""
        h = element_of_order(degree, nodes)
        return np.array([pow(h, power, nodes) for power in range(degree)], np.int64)
