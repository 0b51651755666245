"""Costs from measured times: least squares of relative errors, no cost below zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..quiet import load_scipy
from ..select.terms import Terms

__all__ = ["fit"]

ROUNDS = 6
LEAST_ERROR = 0.05  # relative; errors below are noise and weigh alike


def fit(terms: Sequence[Terms], times: Sequence[float]) -> tuple[float, ...]:
    """Seconds per count, such that the sums come near the measured times.

    A few wild measurements must not bend the rest: each round weighs a measurement by one over its
    error in the round before, which minimises the sum of absolute rather than squared errors.

    Args:
        terms: the counts of each measurement.
        times: its seconds.

    Example:
        >>> [round(cost, 6) for cost in fit([(1, 2), (1, 4), (1, 8)], [7.0, 11.0, 19.0])]
        [3.0, 2.0]
    """
    load_scipy()
    from scipy.optimize import nnls

    counts = np.asarray(terms, float)
    relative = counts / np.asarray(times, float)[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)
    matrix = relative / scale
    weights = np.ones(len(matrix))
    costs = np.zeros(matrix.shape[1])
    for _ in range(ROUNDS):
        costs, _ = nnls(matrix * weights[:, None], weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(matrix @ costs - 1), LEAST_ERROR))
    return tuple(float(cost) for cost in costs / scale)
