"""Projection: which solver serves which fabric."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..fabric import Fabric, Stage
from .als import als
from .chain import Chain, chains_of
from .groups import parts_of
from .kept import is_one_stage, kept_entries
from .pairs import pairs_of, refine
from .problem import Problem, Projection, problem_of
from .start import is_best, started

__all__ = ["project"]

Matrix = npt.NDArray[np.float64]

_SWEEPS = 30
_LEAST_SWEEPS = 4
_WORK = 8e12
"""Sweeps by default: so many, or as many as take about this many floating point operations (one to
five minutes of a core), which only layers of several thousand features reach."""

_ENOUGH = 1e-3
_CONVERGED = 1e-7
"""Relative gains of a sweep: below the first, more are not worth their time; below the second, even
those that were asked for make no difference."""


def project(
    weight: Any,
    fabric: Fabric,
    covariance: Any = None,
    *,
    groups: int = 1,
    sweeps: int | None = None,
) -> Projection:
    """The weights of a fabric that come nearest to a dense weight.

    Exact, as the least error that there is: fabrics of one stage; two stages of blocks whose
    paths do not overlap (Monarch of any rectangle and links, low rank, two-stage butterflies, with
    any shuffles), with a covariance those with one block of inputs. Members of deeper butterflies
    are recovered exactly. All else: hierarchical splits, or random weights for graphs, then
    alternating least squares, a local minimum.

    Args:
        weight: (out, in), or (out, in / groups, *kernel) of a convolution; any real dtype.
        fabric: what to fit; for a convolution with its kernel, see `Fabric.with_kernel`.
        covariance: mean outer product of the inputs, (in, in); of a convolution (in * taps,
            in * taps), channels major, with groups that or one such matrix per group. The error is
            then that of the output for such inputs.
        groups: of the convolution.
        sweeps: rounds of alternating least squares, where they are needed, fewer where they have
            converged; by default up to 30 (less for the largest), as long as each gains a
            thousandth.

    Returns:
        One float64 array of `stage.shape` per stage, and the relative squared error. A weight of
        zeros has factors of zeros and the error 0.

    Raises:
        ConfigError: shapes do not go together; the covariance is not symmetric, or has negative
            eigenvalues; the fabric mixes the groups.
        ModelError: the weight has NaN or infinite entries.

    Example:
        >>> from sparsify.topology import Monarch
        >>> fabric = Monarch(blocks=8).build(64, 64)
        >>> factors, error = project(np.eye(64), fabric)
        >>> [factor.shape for factor in factors], error < 1e-28
        ([(8, 1, 8, 8), (1, 8, 8, 8)], True)

    Reference:
        Dao et al. 2022 (Monarch projection); Le et al. 2022 (hierarchical butterflies).
    """
    if sweeps is not None and (not isinstance(sweeps, int) or sweeps < 0):
        raise ConfigError(f"sweeps must be a whole number of 0 or more; got sweeps={sweeps!r}.")
    parts = [problem_of(*part) for part in parts_of(weight, fabric, covariance, groups)]
    solved = [_solved(part, sweeps) for part in parts]
    energies = [part.energy for part in parts]
    errors = [part.error(factors) for part, factors in zip(parts, solved, strict=True)]
    error = float(np.average(errors, weights=energies)) if sum(energies) > 0 else 0.0
    return Projection([np.concatenate(f) for f in zip(*solved, strict=True)], error)


def _solved(problem: Problem, sweeps: int | None) -> list[Matrix]:
    """The factors of one group."""
    if not problem.weight.any():
        return [np.zeros(stage.shape) for stage in problem.fabric.stages]
    if is_one_stage(problem):
        return kept_entries(problem)
    chains = started(problem)
    if not is_best(problem) and sweeps != 0:
        chains = _polished(problem, chains, sweeps)
    return [factor for chain in chains for factor in chain.factors()]


def _polished(problem: Problem, chains: list[Chain], sweeps: int | None) -> list[Chain]:
    """A start after alternating least squares."""
    enough = _ENOUGH if sweeps is None else _CONVERGED
    rounds = sweeps or _affordable(problem)
    pairs = None if problem.metric is None else pairs_of(problem)
    if pairs is None:
        als(chains, problem.target(), problem.inputs(), rounds, enough)
        return chains
    factors = refine(problem, pairs, chains[0].factors(), rounds, enough)
    (chain,) = chains_of(problem.fabric, factors)
    chain.balance()
    return [chain]


def _affordable(problem: Problem) -> int:
    """How many sweeps a fabric gets by default."""
    columns = problem.weight[0].size
    work = 0
    for branch in problem.fabric.branches:
        sizes = [
            step.parameters if isinstance(step, Stage) else step.in_features * step.out_features
            for step in branch
        ]
        work += 16 * len(sizes) * sum(sizes) * columns  # about 8 products per stage and sweep
    return int(np.clip(_WORK / work, _LEAST_SWEEPS, _SWEEPS))
