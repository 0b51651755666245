"""Where alternating least squares starts: as near as splits bring it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ..fabric import Branch, Weighted
from .block_link import BlockLink
from .chain import Chain
from .links import links_of
from .problem import Problem, dense
from .split import is_disjoint, split

__all__ = ["is_best", "started"]

Matrix = npt.NDArray[np.float64]

_SEED = 0


def started(problem: Problem) -> list[Chain]:
    """The branches one by one, each fitted to what the ones before have left.

    Cascades of blocks by hierarchical splits. Those with graphs get random weights, and zeros in
    the last stage, where the first sweep finds the best: until then they add nothing.
    """
    rng = np.random.default_rng(_SEED)
    rest, chains = problem.weight, []
    inputs = None if problem.root is None else problem.inputs()
    for branch in problem.fabric.branches:
        links = links_of(problem.fabric, branch, problem.root is not None)
        blocks = _as_blocks(links)
        if blocks is not None:
            factors = split(blocks, rest, inputs)
            if branch is not problem.fabric.branches[-1]:
                rest = rest - _product(problem, branch, factors)
        else:
            factors = [_drawn(link.stage, rng) for link in links]
            factors[-1][:] = 0
        chain = Chain(links, [link.from_factor(f) for link, f in zip(links, factors, strict=True)])
        chain.balance()
        chains.append(chain)
    return chains


def is_best(problem: Problem) -> bool:
    """Whether the start is the optimum.

    Two stages whose cells do not overlap; with a covariance where they also read all inputs, taps
    included, so that the metric of the only block is the covariance.
    """
    fabric = problem.fabric
    if not fabric.is_exact or len(fabric.branches) > 1 or len(fabric.stages) > 2:
        return False
    blocks = _as_blocks(links_of(fabric, fabric.branches[0], False))
    if blocks is None or not is_disjoint(blocks):
        return False
    first, last = blocks[0], blocks[-1]
    return problem.root is None or (first.stage.a * first.stage.d == 1 and last.taps == 1)


def _as_blocks(links: tuple[Any, ...]) -> tuple[BlockLink, ...] | None:
    if not all(isinstance(link, BlockLink) for link in links):
        return None
    return cast("tuple[BlockLink, ...]", links)


def _product(problem: Problem, branch: Branch, factors: list[Matrix]) -> Matrix:
    """The dense weight of one branch, (out, in, taps)."""
    links = links_of(problem.fabric, branch, False)
    weights = [link.from_factor(f) for link, f in zip(links, factors, strict=True)]
    return dense(Chain(links, weights), problem.weight.shape)


def _drawn(stage: Weighted, rng: np.random.Generator) -> Matrix:
    return np.asarray(rng.standard_normal(stage.shape) / np.sqrt(stage.fan_in))
