"""Searches for the best of a few seeded draws of a graph."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..fabric import GraphStage
from ..steps.scramble import permutations
from .spectra import additive_sigma2, ramanujan_bound, second_singular_value, xor_sigma2

__all__ = ["DRAWS", "best_lift", "best_offsets"]

DRAWS = 32
"""Seeds that a search tries at most."""

_TOLERANCE = 1e-9


@lru_cache(maxsize=1024)
def best_offsets(graph: str, nodes: int, degree: int, first: int) -> tuple[int, float]:
    """The seed from `first` on whose Cayley graph has the smallest second singular value.

    Args:
        graph: "circulant" or "xor".
        nodes: a power of two for "xor".
        degree: neighbours of a node, 1 to nodes.
        first: of the seeds to try.

    Returns:
        The seed and the second singular value.

    Example:
        >>> seed, sigma2 = best_offsets("circulant", 64, 6, 0)
        >>> 0 <= seed < 32, 0 < sigma2 < 1
        (True, True)
    """
    offsets = _orders(nodes, first)[:, :degree]
    values = (xor_sigma2 if graph == "xor" else additive_sigma2)(offsets, nodes)
    best = int(values.argmin())
    return first + best, float(values[best])


@lru_cache(maxsize=4)
def _orders(nodes: int, first: int) -> npt.NDArray[np.int64]:
    return np.stack([permutations(1, nodes, first + draw)[0] for draw in range(DRAWS)])


@lru_cache(maxsize=256)
def best_lift(
    in_features: int, out_features: int, degree: int, first: int
) -> tuple[GraphStage, float]:
    """The first random graph from a seed on that meets the Ramanujan bound, else the best.

    Returns:
        The graph and its second singular value.

    Example:
        >>> graph, sigma2 = best_lift(60, 60, 6, 0)
        >>> sigma2 <= ramanujan_bound(6, 6)
        True
    """
    fan_out = out_features * degree // in_features
    bound = ramanujan_bound(degree, fan_out)
    draws = 1 if 1 in (degree, fan_out) else DRAWS  # stars: one draw is like another
    found: list[tuple[float, GraphStage]] = []
    for seed in range(first, first + draws):
        stage = GraphStage("random", in_features, out_features, degree, seed=seed)
        found.append((round(second_singular_value(stage), 9), stage))
        if found[-1][0] <= bound + _TOLERANCE:
            break
    sigma2, best = min(found, key=lambda pair: pair[0])
    return best, sigma2
