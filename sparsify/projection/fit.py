"""Projection: which solver serves which fabric."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ..fabric import Fabric, Weighted
from .als import als
from .chain import Chain, chains_of
from .groups import parts_of
from .kept import is_one_stage, kept_entries
from .links import BlockLink, links_of
from .pairs import pairs_of, refine
from .problem import Problem, Projection, problem_of
from .split import is_disjoint, split

__all__ = ["project"]

Matrix = npt.NDArray[np.float64]

_SWEEPS = 30


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
        sweeps: rounds of alternating least squares at most, where they are needed.

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
    parts = [problem_of(*part) for part in parts_of(weight, fabric, covariance, groups)]
    rounds = _SWEEPS if sweeps is None else sweeps
    solved = [_solved(part, rounds) for part in parts]
    energies = [part.energy for part in parts]
    errors = [part.error(factors) for part, factors in zip(parts, solved, strict=True)]
    error = float(np.average(errors, weights=energies)) if sum(energies) > 0 else 0.0
    return Projection([np.concatenate(f) for f in zip(*solved, strict=True)], error)


def _solved(problem: Problem, sweeps: int) -> list[Matrix]:
    """The factors of one group."""
    if not problem.weight.any():
        return [np.zeros(stage.shape) for stage in problem.fabric.stages]
    if is_one_stage(problem):
        return kept_entries(problem)
    chains = _started(problem)
    pairs = None if problem.metric is None else pairs_of(problem)
    if pairs is not None and sweeps:
        factors = refine(problem, pairs, chains[0].factors(), sweeps)
        chains = chains_of(problem.fabric, factors)
        chains[0].balance()
    elif not _is_solved_by_split(problem):
        inputs, target = problem.columns()
        als(chains, target, inputs, sweeps)
    return [factor for chain in chains for factor in chain.factors()]


def _is_solved_by_split(problem: Problem) -> bool:
    """Whether the start is the optimum: two stages whose cells do not overlap."""
    fabric = problem.fabric
    if not fabric.is_exact or len(fabric.branches) > 1 or len(fabric.stages) > 2:
        return False
    links = links_of(fabric, fabric.branches[0], False)
    if not _are_blocks(links):
        return False
    blocks = cast("tuple[BlockLink, ...]", links)
    one_input_block = blocks[0].stage.a * blocks[0].stage.d == 1
    return is_disjoint(blocks) and (problem.root is None or one_input_block)


def _started(problem: Problem) -> list[Chain]:
    """Branch by branch, each fitted to what the ones before have left."""
    rng = np.random.default_rng(0)
    rest, chains = problem.weight, []
    for number, branch in enumerate(problem.fabric.branches):
        links = links_of(problem.fabric, branch, problem.root is not None)
        if _are_blocks(links):
            inputs = None if problem.root is None else problem.columns()[0]
            factors = split(cast("tuple[BlockLink, ...]", links), rest, inputs)
            if number + 1 < len(problem.fabric.branches):
                rest = rest - _product(problem, branch, factors)
        else:
            factors = [_drawn(link.stage, rng) for link in links]
            factors[-1][:] = 0  # the first sweep finds it; until then the branch adds nothing
        chain = Chain(links, [link.from_factor(f) for link, f in zip(links, factors, strict=True)])
        chain.balance()
        chains.append(chain)
    return chains


def _are_blocks(links: tuple[Any, ...]) -> bool:
    return all(isinstance(link, BlockLink) for link in links)


def _product(problem: Problem, branch: Any, factors: list[Matrix]) -> Matrix:
    """The dense weight of one branch, (out, in, taps)."""
    outputs, inputs, taps = problem.weight.shape
    links = links_of(problem.fabric, branch, False)
    chain = Chain(links, [link.from_factor(f) for link, f in zip(links, factors, strict=True)])
    return chain.forward(np.eye(inputs)).reshape(outputs, taps, inputs).transpose(0, 2, 1)


def _drawn(stage: Weighted, rng: np.random.Generator) -> Matrix:
    return np.asarray(rng.standard_normal(stage.shape) / np.sqrt(stage.fan_in))
