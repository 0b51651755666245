"""Alternating least squares: one stage after the other, all others fixed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .chain import Chain

__all__ = ["als"]

Matrix = npt.NDArray[np.float64]

_STEPS = 6
"""Conjugate-gradient steps per stage and sweep: they start at the last value, so few suffice."""

_SOLVED = 1e-12
"""Share of the squared gradient, in the metric of the solver, at which a stage counts as solved."""

_ENOUGH = 1e-4
"""Relative gain of a sweep below which the next ones are not worth their time."""

_EXACT = 1e-28
"""Share of the target's energy that is rounding."""


def als(
    chains: list[Chain],
    target: Matrix,
    inputs: Matrix,
    sweeps: int,
    enough: float = _ENOUGH,
) -> None:
    """Fit the weights of all branches to a target, in place; the error never rises.

    With all other stages fixed the matrix is linear in the weights of one stage. Conjugate
    gradients start from the last value, preconditioned by the exact solution of each block alone.
    Where the blocks of a stage do not meet, as in butterflies and at the ends of every cascade,
    the first step is the solution.

    Args:
        chains: the branches with their start, changed in place.
        target: what the sum of the branches shall make of the inputs, (outputs, columns).
        inputs: columns of features, (inputs, columns before the spatial stage).
        sweeps: rounds over all stages at most.
        enough: relative gain of a sweep at which it stops.

    Reference:
        Le et al. 2022 (fixed-support factorisation); THEORY.md section 4.
    """
    residual = target - sum(chain.forward(inputs) for chain in chains)
    energy = error = _energy(target), _energy(residual)
    whole, error = energy
    steps = [[_STEPS] * len(chain.links) for chain in chains]
    for _ in range(sweeps):
        before = error
        for chain, most in zip(chains, steps, strict=True):
            residual = _sweep(chain, residual, inputs, most)
            chain.balance()
        error = _energy(residual)
        if before - error <= enough * before or error <= _EXACT * whole:
            break


def _sweep(chain: Chain, residual: Matrix, inputs: Matrix, steps: list[int]) -> Matrix:
    """Solve for each stage of a branch in turn; returns the new residual."""
    last = len(chain.links) - 1
    behind = _grams_behind(chain)
    x = inputs
    for place, link in enumerate(chain.links):

        def outwards(change: Matrix, link=link, x=x, place=place) -> Matrix:
            return chain.forward(link.forward(change, x), place + 1)

        def inwards(error: Matrix, link=link, x=x, place=place) -> Matrix:
            return link.gradient(chain.backward(error, place + 1), x)

        solve = link.preconditioner(behind[place], x)
        change, residual, taken = _improve(outwards, inwards, solve, residual, steps[place])
        steps[place] = min(steps[place], taken)
        chain.weights[place] = chain.weights[place] + change
        if place < last:
            x = link.forward(chain.weights[place], x)
    return residual


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
        The change of the weight, the residual after it, and how many steps are needed: one where
        the first was the solution, else `steps`.
    """
    gradient = inwards(residual)
    direction = solve(gradient)
    total = np.zeros_like(gradient)
    slope = first = float((gradient * direction).sum())
    error = _energy(residual)
    for step in range(1, steps + 1):
        if not slope > _SOLVED * first:
            return total, residual, 1 if step == 2 else steps
        image = outwards(direction)
        curvature = _energy(image)
        if not curvature > 0:
            break
        length = slope / curvature
        left_over = residual - length * image
        if not (energy := _energy(left_over)) < error:
            break  # rounding decides from here on
        total, residual, error = total + length * direction, left_over, energy
        if step == steps:
            break
        gradient = inwards(residual)
        scaled = solve(gradient)
        last, slope = slope, float((gradient * scaled).sum())
        direction = scaled + slope / last * direction
    return total, residual, steps


def _energy(matrix: Matrix) -> float:
    return float(np.vdot(matrix, matrix))
