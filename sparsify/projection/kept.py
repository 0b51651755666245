"""Fabrics of one stage: the entries that they have, each at its best value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .links import links_of
from .problem import Problem

__all__ = ["is_one_stage", "kept_entries"]

Ids = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]


def is_one_stage(problem: Problem) -> bool:
    """Whether every branch is one stage, so that a fabric is a choice of entries."""
    return len(problem.fabric.stages) == len(problem.fabric.branches)


def kept_entries(problem: Problem) -> list[Matrix]:
    """The exact solution for a fabric of one stage per branch.

    Entries of the weight are copied; with a covariance, each row is the least squares fit on its
    own columns. Weights that meet in one entry, where the ends wrap and fold or branches add up,
    share it evenly.
    """
    fabric = problem.fabric
    edges = [links_of(fabric, branch, False)[0].edges() for branch in fabric.branches]
    times = np.zeros(problem.weight.shape[:2])
    for rows, columns in edges:
        np.add.at(times, (rows, columns), 1)
    best = problem.weight if problem.metric is None else _fitted(problem, times > 0)
    shares = best / np.maximum(times, 1)[..., None]
    pairs = zip(edges, fabric.stages, strict=True)
    return [shares[rows, columns].reshape(stage.shape) for (rows, columns), stage in pairs]


def _fitted(problem: Problem, support: npt.NDArray[np.bool_]) -> Matrix:
    """Least squares on the columns that each row has; rows with the same ones at once."""
    assert problem.metric is not None
    outputs, _, taps = problem.weight.shape
    flat = problem.weight.reshape(outputs, -1)
    products = flat @ problem.metric
    best = np.zeros_like(flat)
    for rows in _alike(support):
        columns = np.flatnonzero(np.repeat(support[rows[0]], taps))
        gram = problem.metric[columns[:, None], columns]
        fit = np.linalg.solve(gram, products[rows[:, None], columns].T).T
        best[rows[:, None], columns] = fit
    return best.reshape(problem.weight.shape)


def _alike(support: npt.NDArray[np.bool_]) -> list[Ids]:
    """Rows that are equal."""
    packed = np.packbits(support, axis=1)
    _, ids = np.unique(packed, axis=0, return_inverse=True)
    order = np.argsort(ids.reshape(-1), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(ids.reshape(-1)[order])) + 1)
