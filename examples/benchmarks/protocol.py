"""What is trained in which order: learning rates with seed 0 first, then all seeds at the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sparsify as sp

from .rates import best, wanted

__all__ = ["Cell", "all_missing", "cell_of", "finals", "longest", "missing", "spread"]

Cell = dict[str, Any]
"""A point without its learning rate and its seed."""


def missing(
    cell: Cell, found: Iterable[sp.Trial], first: float, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """The trainings of a cell that are still wanted.

    Args:
        cell: which trainings.
        found: all that were done.
        first: learning rate where the search begins.
        seeds: the first is the one that rates are chosen with.
    """
    mine = [trial for trial in found if cell_of(trial) == cell]
    losses = _losses(mine, seeds[0])
    rates = wanted(first, losses)
    if rates:
        return [{**cell, "lr": rate, "seed": seeds[0]} for rate in rates]
    rate = best(losses)
    done = {trial.point["seed"] for trial in mine if trial.point["lr"] == rate}
    return [{**cell, "lr": rate, "seed": seed} for seed in seeds if seed not in done]


def all_missing(
    cells: Iterable[Cell],
    found: Sequence[sp.Trial],
    rates: Mapping[str, float],
    rate: float,
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """The trainings of many cells that are still wanted.

    Args:
        cells: which trainings.
        found: all that were done.
        rates: by arm, where the search begins.
        rate: where that of all other arms begins.
        seeds: the first is the one that rates are chosen with.
    """
    return [
        point
        for cell in cells
        for point in missing(cell, found, rates.get(cell["arm"], rate), seeds)
    ]


def finals(cell: Cell, found: Iterable[sp.Trial]) -> list[sp.Trial]:
    """The trainings of a cell at the rate with the lowest validation loss, by seed."""
    mine = [trial for trial in found if cell_of(trial) == cell]
    losses = _losses(mine, min((trial.point["seed"] for trial in mine), default=0))
    if not losses:
        return []
    rate = best(losses)
    at_best = [trial for trial in mine if trial.result and trial.point["lr"] == rate]
    return sorted(at_best, key=lambda trial: trial.point["seed"])


def longest(found: Sequence[sp.Trial]) -> list[sp.Trial]:
    """Those of the longest trainings: a folder may hold the quick form beside the full one."""
    most = max((trial.point["steps"] for trial in found), default=0)
    return [trial for trial in found if trial.point["steps"] == most]


def cell_of(trial: sp.Trial) -> Cell:
    """The cell that a training belongs to."""
    return {key: value for key, value in trial.point.items() if key not in ("lr", "seed")}


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and standard deviation where there is one."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _losses(trials: Iterable[sp.Trial], seed: int) -> dict[float, float]:
    """Validation loss by rate; one that failed is not chosen."""
    return {
        trial.point["lr"]: trial.result["validation"] if trial.result else math.inf
        for trial in trials
        if trial.point["seed"] == seed
    }
