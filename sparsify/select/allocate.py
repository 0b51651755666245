"""One budget for a whole model, divided over its layers by marginal value.

Every layer offers fabrics of several sizes. Each step up costs a part of the budget and is worth
something; the steps with the most value per cost are taken first, which is the solution of the
Lagrangian relaxation. What then remains is filled with the steps that still fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Option", "allocate"]

_ROUNDING = 1e-12
"""Sums of shares may exceed 1 by rounding; the budget itself is checked in whole numbers."""


@dataclass(frozen=True)
class Option:
    """One choice for one layer.

    Args:
        costs: the share of each limit that it takes, 0 or more.
        value: what it is worth; only differences between options of a layer count.
    """

    costs: tuple[float, ...]
    value: float


def allocate(layers: Sequence[Sequence[Option]]) -> list[int]:
    """Choose one option per layer so that no limit is exceeded.

    A larger budget (smaller costs) keeps the steps that a smaller one took, up to the filling of
    the remainder.

    Args:
        layers: the options of each layer; it starts from the first one, and all first ones must
            fit together.

    Returns:
        The place of the chosen option, per layer.

    Example:
        >>> options = [Option((0.1,), 0.0), Option((0.5,), 3.0), Option((0.9,), 4.0)]
        >>> allocate([options, options])
        [1, 1]
    """
    chosen = [0] * len(layers)
    costs = [np.array([option.costs for option in options]) for options in layers]
    values = [np.array([option.value for option in options]) for options in layers]
    left = 1 + _ROUNDING - sum(c[k] for c, k in zip(costs, chosen, strict=True))
    for layer, option in _steps(costs, values):
        more = costs[layer][option] - costs[layer][chosen[layer]]
        if (more > left).any():
            break
        chosen[layer], left = option, left - more
    while (found := _filling(costs, values, chosen, left)) is not None:
        layer, option = found
        left = left - (costs[layer][option] - costs[layer][chosen[layer]])
        chosen[layer] = option
    return chosen


def _steps(
    costs: list[npt.NDArray[np.float64]], values: list[npt.NDArray[np.float64]]
) -> list[tuple[int, int]]:
    """The steps along the concave hulls of all layers, the most worthwhile first."""
    found = []
    for layer in range(len(costs)):
        total = costs[layer].sum(1)
        place = 0
        for number in range(len(total)):
            ahead = np.flatnonzero((total > total[place]) & (values[layer] > values[layer][place]))
            if not ahead.size:
                break
            gains = values[layer][ahead] - values[layer][place]
            rates = gains / (total[ahead] - total[place])
            best = int(np.flatnonzero(rates == rates.max())[-1])
            found.append((-float(rates[best]), layer, number, int(ahead[best])))
            place = int(ahead[best])
    return [(layer, option) for _, layer, _, option in sorted(found)]


def _filling(
    costs: list[npt.NDArray[np.float64]],
    values: list[npt.NDArray[np.float64]],
    chosen: list[int],
    left: npt.NDArray[np.float64],
) -> tuple[int, int] | None:
    """The single change of the most value per cost that still fits."""
    best, found = 0.0, None
    for layer, now in enumerate(chosen):
        more = costs[layer] - costs[layer][now]
        gains = values[layer] - values[layer][now]
        useful = (more <= left).all(1) & (gains > 0)
        if not useful.any():
            continue
        rates = np.where(useful, gains / np.maximum(more.sum(1), _ROUNDING), 0.0)
        option = int(rates.argmax())
        if rates[option] > best:
            best, found = float(rates[option]), (layer, option)
    return found
