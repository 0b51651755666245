"""Alternating least squares: one stage after the other, all others fixed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from .chain import Chain
from .link import Link

__all__ = ["als"]

Matrix = npt.NDArray[np.float64]

_STEPS = 3
"""Conjugate-gradient steps per stage and sweep: they start at the last value, so few suffice."""

_SOLVED = 1e-12
"""Share of the squared gradient, in the metric of the solver, at which a stage counts as solved."""

_EXACT = 1e-28
"""Share of the target's energy that is rounding."""

_FURTHER = 1.0
_FASTER, _SLOWER = 1.5, 0.5
"""How far to go on along what a sweep has changed, and how that grows and shrinks."""


def als(chains: list[Chain], target: Matrix, inputs: Matrix, sweeps: int, enough: float) -> None:
    """Fit the weights of all branches to a target, in place; the error never rises.

    With all other stages fixed the matrix is linear in the weights of one stage. Conjugate
    gradients start from the last value, preconditioned by the exact solution of each block alone.
    Where the blocks of a stage do not meet, as in butterflies and at the ends of every cascade,
    the first step is the solution. After a sweep all weights go on in the direction of their
    change, where that lowers the error.

    Args:
        chains: the branches with their start, changed in place.
        target: what the sum of the branches shall make of the inputs, (outputs, columns).
        inputs: columns of features, (inputs, columns before the spatial stage).
        sweeps: rounds over all stages at most.
        enough: relative gain of a sweep at which it stops.

    Reference:
        Le et al. 2022 (fixed-support factorisation); Rajih et al. 2008 (enhanced line search);
        THEORY.md section 4.
    """
    whole = _energy(target)
    residual = _residual(chains, target, inputs)
    error = _energy(residual)
    steps = [[_STEPS] * len(chain.links) for chain in chains]
    further = _FURTHER
    for _ in range(sweeps):
        before, old = error, [chain.weights[:] for chain in chains]
        for chain, most in zip(chains, steps, strict=True):
            residual = _sweep(chain, residual, inputs, most)
            chain.balance()
        error = _energy(residual)
        if before - error <= enough * before or error <= _EXACT * whole:
            return
        found = [chain.weights for chain in chains]
        _move(chains, old, found, further)
        beyond = _residual(chains, target, inputs)
        if _energy(beyond) < error:
            residual, error, further = beyond, _energy(beyond), further * _FASTER
        else:
            further *= _SLOWER
            for chain, weights in zip(chains, found, strict=True):
                chain.weights = weights


def _residual(chains: list[Chain], target: Matrix, inputs: Matrix) -> Matrix:
    residual = target.copy()
    for chain in chains:
        residual -= chain.forward(inputs)
    return residual


def _move(
    chains: list[Chain], old: list[list[Matrix]], found: list[list[Matrix]], further: float
) -> None:
    """Weights beyond those that were found, seen from the old ones."""
    for chain, before, after in zip(chains, old, found, strict=True):
        chain.weights = [
            new + further * (new - last) for last, new in zip(before, after, strict=True)
        ]


def _sweep(chain: Chain, residual: Matrix, inputs: Matrix, steps: list[int]) -> Matrix:
    """Solve for each stage of a branch in turn; returns the new residual."""
    last = len(chain.links) - 1
    behind = _grams_behind(chain)
    x = inputs
    for place, link in enumerate(chain.links):
        change, residual, steps[place] = _improve(
            partial(_outwards, chain, place, link, x),
            partial(_inwards, chain, place, link, x),
            link.preconditioner(behind[place], x),
            residual,
            steps[place],
        )
        chain.weights[place] = chain.weights[place] + change
        if place < last:
            x = link.forward(chain.weights[place], x)
    return residual


def _outwards(chain: Chain, place: int, link: Link, x: Matrix, change: Matrix) -> Matrix:
    return chain.forward(link.forward(change, x), place + 1)


def _inwards(chain: Chain, place: int, link: Link, x: Matrix, error: Matrix) -> Matrix:
    return link.gradient(chain.backward(error, place + 1), x)


def _grams_behind(chain: Chain) -> list[Matrix]:
    """For each stage the Gram matrices, block by block, of what lies behind its outputs."""
    grams = []
    y = np.eye(chain.links[-1].sinks)
    for link, weight in zip(reversed(chain.links), reversed(chain.weights), strict=True):
        grams.append(link.gram_behind(y))
        if link is not chain.links[0]:
            y = link.pulled(weight, y)
    return grams[::-1]


def _improve(
    outwards: Callable[[Matrix], Matrix],
    inwards: Callable[[Matrix], Matrix],
    solve: Callable[[Matrix], Matrix],
    residual: Matrix,
    steps: int,
) -> tuple[Matrix, Matrix, int]:
    """Preconditioned conjugate gradients on the normal equations of one stage.

    Returns:
        The change of the weight, the residual after it, and how many steps it needs: one where
        the first was the solution, else `steps`.
    """
    gradient = inwards(residual)
    direction = solve(gradient)
    total = np.zeros_like(gradient)
    slope = first = float(np.vdot(gradient, direction))
    error = _energy(residual)
    for step in range(1, steps + 1):
        if not slope > _SOLVED * first:
            return total, residual, 1 if step == 2 else steps
        image = outwards(direction)
        curvature = _energy(image)
        if not curvature > 0:
            break
        length = slope / curvature
        image *= -length
        image += residual
        if not (energy := _energy(image)) < error:
            break  # rounding decides from here on
        total, residual, error = total + length * direction, image, energy
        if step == steps:
            break
        gradient = inwards(residual)
        scaled = solve(gradient)
        last, slope = slope, float(np.vdot(gradient, scaled))
        direction = scaled + slope / last * direction
    return total, residual, steps


def _energy(matrix: Matrix) -> float:
    return float(np.vdot(matrix, matrix))
