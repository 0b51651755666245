"""Paths between inputs and outputs: how many, how evenly, over one layer and two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...fabric import Fabric
from ..digits import Link, link
from ..flow import backward, forward
from ..trace import blocks, row_cost, rows_to_trace
from ..width import closed_uniformity, row_concentration, stack_outputs

__all__ = [
    "path_uniformity",
    "path_uniformity_error",
    "path_variation",
    "path_variation_error",
    "paths_max",
    "paths_max_error",
    "paths_mean",
    "paths_min",
    "paths_min_error",
]


def paths_min(fabric: Fabric) -> float:
    """Paths of the pair of an input and an output with the fewest; 0 where some have none.

    Example:
        >>> from sparsify.topology import Clos
        >>> paths_min(Clos(ingress=4, middle=3).build(16, 16))
        3.0

    Reference:
        ClosNets, arXiv 1802.03885 (path diversity).
    """
    return _counted(fabric).least


def paths_mean(fabric: Fabric) -> float:
    """Paths of a pair on average."""
    return _counted(fabric).mean


def paths_max(fabric: Fabric) -> float:
    """Paths of the pair with the most."""
    return _counted(fabric).most


def path_variation(fabric: Fabric) -> float:
    """Standard deviation of the paths over the pairs, by the mean; 0 where all pairs are alike.

    Example:
        >>> from sparsify.topology import BlockDiagonal
        >>> path_variation(BlockDiagonal(5).build(20, 20))
        2.0
    """
    return _counted(fabric).variation


def path_uniformity(fabric: Fabric) -> float:
    """1 / (n * mean_i sum_j Y_ij^2) over two layers in a row, Y their row-normalised path counts.

    1 where all pairs are alike, the share of reached inputs where paths to them are. The second
    layer is the fabric again, its transpose where it is not square.

    Example:
        >>> from sparsify.topology import BlockDiagonal
        >>> path_uniformity(BlockDiagonal(4).build(16, 16))
        0.25
    """
    return _uniformity(fabric)[0]


def path_uniformity_error(fabric: Fabric) -> float | None:
    """Standard error over the sampled rows, relative; None where all rows count."""
    return _uniformity(fabric)[1]


def path_variation_error(fabric: Fabric) -> float | None:
    """Standard error over the sampled rows, relative; None where all rows count."""
    return _counted(fabric).error


paths_min_error = paths_max_error = path_variation_error
"""Of the extremes, seen in the sampled rows only, the same number stands for the uncertainty."""


@dataclass(frozen=True, slots=True)
class _Counts:
    least: float
    mean: float
    most: float
    variation: float
    error: float | None = None


@lru_cache(maxsize=1024)
def _counted(fabric: Fabric) -> _Counts:
    one = link(fabric.branches[0])
    if one is not None and len(fabric.branches) == 1 and fabric.is_exact:
        return _of_link(one)
    inputs, outputs = fabric.in_features, fabric.out_features
    sums = forward(fabric, np.ones((1, inputs)))
    mean = float(np.mean(sums)) / inputs
    rows = rows_to_trace(outputs, _cost(fabric))
    least, most, squares = math.inf, 0.0, []
    for chosen in blocks(rows, _widest(fabric)):
        ones = np.zeros((len(chosen), outputs))
        ones[np.arange(len(chosen)), chosen] = 1
        paths = backward(fabric, ones)
        least, most = min(least, float(paths.min())), max(most, float(paths.max()))
        squares.append(np.mean((paths / mean - 1) ** 2, axis=1))
    each = np.concatenate(squares)
    variation = math.sqrt(float(np.mean(each)))
    if len(rows) == outputs:
        return _Counts(least, mean, most, variation)
    error = float(np.std(each, ddof=1)) / math.sqrt(len(rows)) / (2 * variation**2 or 1)
    return _Counts(least, mean, most, variation, error)


def _of_link(one: Link) -> _Counts:
    """Every pair of one class alike, no paths between classes."""
    least = one.count if one.classes == 1 else 0.0
    return _Counts(least, one.count / one.classes, one.count, math.sqrt(one.classes - 1))


@lru_cache(maxsize=1024)
def _uniformity(fabric: Fabric) -> tuple[float, float | None]:
    closed = closed_uniformity(fabric)
    if closed is not None:
        return closed, None
    rows = rows_to_trace(stack_outputs(fabric, None), 2 * _cost(fabric))
    means = [row_concentration(fabric, None, chosen) for chosen in blocks(rows, _widest(fabric))]
    each = np.concatenate(means)
    mean = float(np.mean(each))
    value = 1 / (fabric.in_features * mean)
    if len(rows) == stack_outputs(fabric, None):
        return value, None
    return value, float(np.std(each, ddof=1)) / math.sqrt(len(rows)) / mean


def _cost(fabric: Fabric) -> float:
    return sum(row_cost((*branch, branch[-1])) for branch in fabric.branches)


def _widest(fabric: Fabric) -> int:
    return max(step.in_features for branch in fabric.branches for step in branch)
