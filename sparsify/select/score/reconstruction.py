"""Reconstruction: how near the best weights of a fabric come to a random dense matrix.

Reference: NeuroFabric, arXiv 2002.08339 (the error as a data-free heuristic).
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ...fabric import Fabric, GraphStage, Shuffle, Stage, Step
from .als import als
from .cells import Cells, cells_of
from .dimension import local_dimension
from .layered import layered
from .tails import gaussian_tail, haar_tail

__all__ = [
    "law",
    "reconstruction_gaussian",
    "reconstruction_gaussian_error",
    "reconstruction_haar",
    "reconstruction_haar_error",
]

Target = Literal["gaussian", "haar"]

_SOLVED = 32
"""Up to so many features everywhere a fit to one random matrix is fast enough."""

_SWEEPS = 40

_LEAST = 1e-3
"""Errors below count as this much, where an error is relative to them."""

_SAMPLED_INPUTS = 128

_MOST_SHARE = 0.97
_MOST_REDUNDANCY = 2.5

_LAWS = {
    "gaussian": (0.340, 0.047, 0.157, -0.141, 0.055, 0.113, 0.020),
    "haar": (0.149, -0.010, 0.224, -0.235, 0.086, 0.170, 0.359),
}
"""Coefficients of the exponent; fitted to 350 fabrics of all families with 12 to 128 features."""

_LAW_ERROR = 0.08
_FIT_ERROR = 0.05
_OUTSIDE_ERROR = 0.3
_CELLS_ERROR = 0.03
"""Absolute errors that 95 of 100 fabrics stay below, against alternating least squares."""


@lru_cache(maxsize=1024)
def reconstruction_gaussian(fabric: Fabric) -> float:
    """Expected min ||T - fabric||^2 / ||T||^2 for a matrix T of independent Gaussian entries.

    0 is a fabric that can be any matrix. Fabrics of one stage, and of two Kronecker-sparse stages
    without wrap: exact (see `gaussian_tail`). Others with at most 32 features: a fit to one random
    matrix. Else a law, 1 - q + q (1 - dimension / (q in out)) ** x, where q is the share of pairs
    with a path, and the exponent x that of the same two stages without wrap, or follows from
    depth, branches, redundancy and waist. A kernel counts as one tap.

    Example:
        >>> from sparsify.topology import BlockDiagonal, Monarch
        >>> reconstruction_gaussian(BlockDiagonal(4).build(16, 16))
        0.75
        >>> round(reconstruction_gaussian(Monarch(8).build(64, 64)), 2)
        0.62
    """
    return _estimate(_channels(fabric), "gaussian").error


@lru_cache(maxsize=1024)
def reconstruction_haar(fabric: Fabric) -> float:
    """The same for a random orthogonal T, semi-orthogonal where it is not square.

    All its singular values are equal, so that nothing is gained from a narrow waist.

    Example:
        >>> from sparsify.topology import LowRank
        >>> reconstruction_haar(LowRank(rank=16).build(64, 64))
        0.75
    """
    return _estimate(_channels(fabric), "haar").error


def reconstruction_gaussian_error(fabric: Fabric) -> float | None:
    """Relative error of `reconstruction_gaussian` that 95 of 100 fabrics stay below.

    Returns:
        None where it is exact (up to the standard error of `gaussian_tail`). Else an absolute error
        over the estimate (over 0.001 at least): 0.08 for the law, 0.3 for it outside the range that
        it was fitted in (12 features, density 0.9, 6 stages), 0.03 for two Kronecker-sparse stages
        that wrap, 0.05 and twice the standard error for fits. Measured against 60 sweeps of `als`,
        up to 130 features; of 350 comparisons on fabrics that nothing was fitted to, 346 held.
        `als` finds local minima, so neither side is the truth; deep cascades may be further off.

    Example:
        >>> from sparsify.topology import Monarch
        >>> reconstruction_gaussian_error(Monarch(8).build(64, 64)) is None
        True
    """
    return _relative(_estimate(_channels(fabric), "gaussian"))


def reconstruction_haar_error(fabric: Fabric) -> float | None:
    """The same of `reconstruction_haar`.

    Example:
        >>> from sparsify.topology import Butterfly
        >>> round(reconstruction_haar_error(Butterfly(radix=4).build(64, 64)), 1)
        0.1
    """
    return _relative(_estimate(_channels(fabric), "haar"))


class _Estimate(NamedTuple):
    error: float
    uncertainty: float = 0.0  # absolute


def _relative(estimate: _Estimate) -> float | None:
    if not estimate.uncertainty:
        return None
    return estimate.uncertainty / max(estimate.error, _LEAST)


@lru_cache(maxsize=2048)
def _estimate(fabric: Fabric, target: Target) -> _Estimate:
    if len(fabric.branches) == len(fabric.stages):
        return _Estimate(1 - _connected(fabric, every=True))
    cells = cells_of(fabric)
    if cells is not None and fabric.is_exact:
        return _Estimate(_two_stage_error(fabric, cells, target))
    widest = max(step.in_features + step.out_features for b in fabric.branches for step in b)
    if widest <= 2 * _SOLVED:
        return _fitted(fabric, target)
    connected, dimension = _counts(fabric)
    exponent = _cells_exponent(fabric, cells, target) if cells is not None else None
    if exponent is not None:
        share, _ = _share(fabric, connected, dimension)
        return _Estimate(_law_error(fabric, connected, share, exponent, target), _CELLS_ERROR)
    uncertainty = _LAW_ERROR if _is_fitted_range(fabric) else _OUTSIDE_ERROR
    return _Estimate(law(fabric, connected, dimension, target), uncertainty)


def _is_fitted_range(fabric: Fabric) -> bool:
    """Whether fabrics like it were among those that the law was fitted to."""
    narrow = min(fabric.in_features, fabric.out_features)
    return narrow >= 12 and fabric.density <= 0.9 and _depth(fabric) <= 6


def _depth(fabric: Fabric) -> int:
    return max(sum(not isinstance(step, Shuffle) for step in b) for b in fabric.branches)


def _fitted(fabric: Fabric, target: Target) -> _Estimate:
    """The mean over fits to drawn matrices; few draws of narrow ones say little of the mean."""
    draws = 8 if min(fabric.in_features, fabric.out_features) <= 12 else 2
    errors = [als(_drawn(fabric, target, seed), fabric, _SWEEPS, seed) for seed in range(draws)]
    spread = 2 * float(np.std(errors, ddof=1)) / math.sqrt(draws)
    return _Estimate(float(np.mean(errors)), math.hypot(_FIT_ERROR, spread))


def _two_stage_error(fabric: Fabric, cells: Cells, target: Target) -> float:
    """Every cell keeps its best rank-k block, the pairs outside of cells nothing."""
    size = max(fabric.in_features, fabric.out_features)
    entries = cells.outputs * cells.inputs
    kept = 0.0
    for links, count in zip(cells.links, cells.counts, strict=True):
        if target == "gaussian":
            tail = gaussian_tail(cells.outputs, cells.inputs, links)
        else:
            tail = haar_tail(cells.outputs, cells.inputs, links, size)
        kept += count * entries * (1 - tail)
    return max(0.0, 1 - kept / (fabric.in_features * fabric.out_features))


def law(fabric: Fabric, connected: float, dimension: float, target: Target = "haar") -> float:
    """The error by the law of `reconstruction_gaussian`, from counts that are known already.

    Args:
        fabric: what is rated.
        connected: the share of pairs with a path, in (0, 1].
        dimension: its local dimension, above 0.
        target: what is approximated.

    Example:
        >>> from sparsify.topology import Butterfly
        >>> round(law(Butterfly(radix=4).build(64, 64), 1.0, 640), 2)
        0.73
    """
    share, redundancy = _share(fabric, connected, dimension)
    exponent = _exponent(fabric, share, redundancy, target)
    return _law_error(fabric, connected, share, exponent, target)


def _law_error(
    fabric: Fabric, connected: float, share: float, exponent: float, target: Target
) -> float:
    error = 1 - connected + connected * float((1 - share) ** exponent)
    return max(error, _least_of_rank(fabric, target))


def _least_of_rank(fabric: Fabric, target: Target) -> float:
    """What every matrix of so low a rank loses."""
    outputs, inputs = fabric.out_features, fabric.in_features
    if target == "haar":
        return 1 - fabric.width / min(outputs, inputs)
    return gaussian_tail(outputs, inputs, fabric.width)


def _cells_exponent(fabric: Fabric, cells: Cells, target: Target) -> float | None:
    """The exponent at which the law is exact for the same steps without wrap and fold."""
    steps = fabric.branches[0]
    wide = Fabric(steps[0].in_features, steps[-1].out_features, fabric.branches)
    error = _two_stage_error(wide, cells, target)
    connected, dimension = _counts(wide)
    share, _ = _share(wide, connected, dimension)
    inside = (error - 1 + connected) / connected
    if share >= _MOST_SHARE or not 0 < inside < 1:
        return None
    return math.log(inside) / math.log(1 - share)


@lru_cache(maxsize=2048)
def _counts(fabric: Fabric) -> tuple[float, float]:
    """The share of connected pairs, and the dimension."""
    return _connected(fabric), local_dimension(fabric)


def _share(fabric: Fabric, connected: float, dimension: float) -> tuple[float, float]:
    """Dimension per connected pair, and parameters per dimension."""
    pairs = connected * fabric.in_features * fabric.out_features
    dimension = max(dimension, fabric.parameters / _MOST_REDUNDANCY)
    return min(dimension / pairs, _MOST_SHARE), fabric.parameters / dimension


def _exponent(fabric: Fabric, share: float, redundancy: float, target: Target) -> float:
    features = (
        1.0,
        min(_depth(fabric) - 2, 3),
        math.log(max(1.0, redundancy)),
        math.log(share),
        float(any(isinstance(stage, GraphStage) for stage in fabric.stages)),
        math.log(len(fabric.branches)),
        math.log(fabric.width / min(fabric.in_features, fabric.out_features)),
    )
    return float(np.exp(np.dot(np.asarray(_LAWS[target]), np.asarray(features))))


def _connected(fabric: Fabric, every: bool = False) -> float:
    """The share of pairs with a path: of every input where asked for, else of up to 128 inputs."""
    if every and fabric.is_exact and len(fabric.stages) == 1:
        return fabric.parameters / (fabric.in_features * fabric.out_features)
    graph = layered(fabric)
    inputs = np.arange(fabric.in_features)
    if not every and inputs.size > _SAMPLED_INPUTS:
        inputs = np.random.default_rng(0).choice(inputs, _SAMPLED_INPUTS, replace=False)
    met = 0
    for start in range(0, inputs.size, _SAMPLED_INPUTS):
        chosen = inputs[start : start + _SAMPLED_INPUTS]
        signals = np.zeros((fabric.in_features, chosen.size))
        signals[chosen, np.arange(chosen.size)] = 1
        met += int(np.count_nonzero(graph.paths(signals)))
    return met / (inputs.size * fabric.out_features)


def _drawn(fabric: Fabric, target: Target, seed: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    rows, columns = fabric.out_features, fabric.in_features
    if target == "gaussian":
        return rng.standard_normal((rows, columns))
    size = max(rows, columns)
    return np.asarray(np.linalg.qr(rng.standard_normal((size, size)))[0][:rows, :columns])


def _channels(fabric: Fabric) -> Fabric:
    """The fabric without its kernel."""
    if not fabric.kernel:
        return fabric
    branches = tuple(tuple(map(_plain, branch)) for branch in fabric.branches)
    return dataclasses.replace(fabric, branches=branches)


def _plain(step: Step) -> Step:
    return dataclasses.replace(step, kernel=()) if isinstance(step, Stage | GraphStage) else step
