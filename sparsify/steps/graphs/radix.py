"""One stage of a RadiX-Net."""

from __future__ import annotations

import math

import numpy as np

from ...errors import ConfigError
from .additive import AdditiveGraph
from .base import Indices, Options

__all__ = ["Radix"]


class Radix(AdditiveGraph):
    """Node j is linked to j, j + step, ... j + (radix - 1) * step; options (radix, step).

    Example:
        >>> Radix().links(6, 2, (2, 3), 0).tolist()
        [[0, 3], [1, 4], [2, 5], [3, 0], [4, 1], [5, 2]]

    Reference:
        Kepner and Robinett 2019, RadiX-Net: structured sparse matrices for deep neural networks.
    """

    def node_degree(self, nodes: int, options: Options) -> int:
        """The radix."""
        if len(options) != 2 or min(options) < 1:
            raise ConfigError(
                f"A radix graph has the options (radix, step), each 1 or more; got {options}."
            )
        radix, step = options
        most = nodes // math.gcd(nodes, step)
        if radix > most:
            raise ConfigError(
                f"A radix graph of {nodes} nodes and step {step} has a radix of 1 to {most}; "
                f"got {radix}."
            )
        return radix

    def offsets(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """See OffsetGraph: the multiples of the step."""
        radix, step = options
        return np.arange(radix, dtype=np.int64) * step % nodes
