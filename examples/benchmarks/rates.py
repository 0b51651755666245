"""Learning rates of an arm: tried at factors of two until the best one has worse neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["best", "wanted"]

MOST = 7  # rates that are tried at most


def wanted(first: float, losses: Mapping[float, float]) -> list[float]:
    """The rates still to be tried.

    Args:
        first: where the search begins.
        losses: rate -> validation loss, of those tried.

    Returns:
        First itself and its neighbours; then what lies beyond the best rate, while it is at the
        edge. None once the best is inside, or `MOST` were tried.

    Example:
        >>> wanted(0.004, {})
        [0.002, 0.004, 0.008]
        >>> wanted(0.004, {0.002: 2.9, 0.004: 2.7, 0.008: 2.6})
        [0.016]
        >>> wanted(0.004, {0.002: 2.9, 0.004: 2.7, 0.008: 2.6, 0.016: 3.0})
        []
    """
    missing = [rate for rate in (first / 2, first, 2 * first) if rate not in losses]
    if missing or len(losses) >= MOST:
        return missing
    rate = best(losses)
    return [near for near in (rate / 2, 2 * rate) if not any(math.isclose(near, r) for r in losses)]


def best(losses: Mapping[float, float]) -> float:
    """The rate with the lowest loss; a loss that is no number is the highest."""
    return min(losses, key=lambda rate: math.inf if math.isnan(losses[rate]) else losses[rate])
