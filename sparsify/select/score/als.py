"""The best fabric for one matrix: alternating least squares over its factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError
from ...fabric import Fabric, Weighted, wrap_matrix

__all__ = ["als"]

Matrix = npt.NDArray[np.float64]

_SOLVER_STEPS = 12
"""Conjugate-gradient steps per factor: they start at the last value, so few suffice."""

_NEGLIGIBLE = 1e-12


def als(target: Matrix, fabric: Fabric, sweeps: int = 60, seed: int = 0) -> float:
    """The relative squared error of a fabric fitted to a dense matrix.

    With all other factors fixed, the matrix is linear in one factor: conjugate gradients from its
    last value lower the error, never raise it. From a random start, so a local minimum; where block
    SVDs are optimal, within 2 % of them.

    Args:
        target: (out_features, in_features).
        fabric: what to fit; taps of a kernel are left out.
        sweeps: rounds over all factors, 1 or more.
        seed: of the start.

    Returns:
        min ||target - fabric||^2 / ||target||^2, as far as the sweeps reach.

    Raises:
        ConfigError: the target has another shape.

    Example:
        >>> from sparsify.topology import LowRank
        >>> als(np.outer([1.0, 2.0, 3.0], [1.0, -1.0]), LowRank(1).build(2, 3)) < 1e-9
        True
    """
    if target.shape != (fabric.out_features, fabric.in_features):
        raise ConfigError(
            f"A matrix of shape {(fabric.out_features, fabric.in_features)} can be fitted by this "
            f"fabric; got {target.shape}."
        )
    branches = _start(fabric, np.random.default_rng(seed))
    energy = _energy(target)
    residual = target - sum((branch.product() for branch in branches), np.zeros_like(target))
    for _ in range(sweeps):
        before = _energy(residual)
        for branch in branches:
            for place in branch.free:
                residual = branch.improve(place, residual)
            branch.balance()
        after = _energy(residual)
        if before - after < 1e-6 * energy / sweeps or after < _NEGLIGIBLE * energy:
            break
    total = sum((branch.product() for branch in branches), np.zeros_like(target))
    return _energy(target - total) / energy


class _Branch:
    """The factors of one cascade as dense matrices with supports; fixed ones have none."""

    def __init__(self, factors: list[Matrix], supports: Sequence[Matrix | None]) -> None:
        self.factors = factors
        self.supports = supports
        self.free = [place for place, support in enumerate(supports) if support is not None]

    def product(self, start: int = 0, stop: int | None = None) -> Matrix:
        """The factors from start to before stop, applied in that order."""
        chosen = self.factors[start:stop]
        total = chosen[0]
        for factor in chosen[1:]:
            total = factor @ total
        return total

    def balance(self) -> None:
        """Give all free factors one size; their product stays, and no factor runs away."""
        sizes = [float(np.sqrt((self.factors[place] ** 2).mean())) for place in self.free]
        if min(sizes) > 0:
            common = float(np.exp(np.log(sizes).mean()))
            for place, size in zip(self.free, sizes, strict=True):
                self.factors[place] = self.factors[place] * (common / size)

    def improve(self, place: int, residual: Matrix) -> Matrix:
        """Solve for one factor; returns the new residual."""
        support = self.supports[place]
        assert support is not None
        right = self.product(0, place) if place else None
        left = self.product(place + 1) if place + 1 < len(self.factors) else None

        def outwards(change: Matrix) -> Matrix:
            image = change if right is None else change @ right
            return image if left is None else left @ image

        def inwards(error: Matrix) -> Matrix:
            image = error if right is None else error @ right.T
            return image if left is None else left.T @ image

        weights = support.copy()
        if left is not None:
            weights *= (left**2).sum(0)[:, None]
        if right is not None:
            weights *= (right**2).sum(1)[None, :]
        change = _least_squares(outwards, inwards, residual, weights)
        left_over = residual - outwards(change)
        if not _energy(left_over) < _energy(residual):
            return residual  # rounding decides from here on
        self.factors[place] = self.factors[place] + change
        return left_over


def _least_squares(
    outwards: Callable[[Matrix], Matrix],
    inwards: Callable[[Matrix], Matrix],
    residual: Matrix,
    weights: Matrix,
) -> Matrix:
    """Conjugate gradients on the normal equations, preconditioned by their diagonal.

    The diagonal is 0 outside of the support, and so is every step.
    """
    seen = weights > _NEGLIGIBLE * weights.max()
    inverse = np.divide(1.0, weights, out=np.zeros_like(weights), where=seen)
    total = np.zeros_like(weights)
    gradient = inwards(residual)
    direction = inverse * gradient
    slope = float((gradient * direction).sum())
    stop = 1e-6 * slope
    for _ in range(_SOLVER_STEPS):
        image = outwards(direction)
        curvature = _energy(image)
        if slope <= stop or curvature <= _NEGLIGIBLE * float((weights * direction**2).sum()):
            break
        step = slope / curvature
        left_over = residual - step * image
        if not _energy(left_over) < _energy(residual):
            break
        total, residual = total + step * direction, left_over
        gradient = inwards(residual)
        scaled = inverse * gradient
        last, slope = slope, float((gradient * scaled).sum())
        direction = scaled + slope / last * direction
    return total


def _energy(matrix: Matrix) -> float:
    return float((matrix**2).sum())


def _start(fabric: Fabric, rng: np.random.Generator) -> list[_Branch]:
    """Gaussian factors with the variance 1 / fan-in, wrap and fold as fixed factors."""
    branches = []
    for branch in fabric.branches:
        factors: list[Matrix] = [
            wrap_matrix(branch[0].in_features, fabric.in_features).astype(np.float64)
        ]
        supports: list[Matrix | None] = [None]
        for step in branch:
            mask = step.mask().astype(np.float64)
            free = isinstance(step, Weighted)
            start: Matrix = mask
            if free:
                start = mask * rng.standard_normal(mask.shape)
                start = start / np.sqrt(mask.sum(1, keepdims=True))
            factors.append(start)
            supports.append(mask if free else None)
        fold = wrap_matrix(branch[-1].out_features, fabric.out_features).T
        factors.append(fold.astype(np.float64))
        supports.append(None)
        branches.append(_Branch(factors, supports))
    return branches
