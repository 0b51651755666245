"""What is asked of a projection, checked and in one form; and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, ModelError
from ..fabric import Fabric, Weighted
from .chain import Chain, chains_of

__all__ = ["Problem", "Projection", "dense", "problem_of"]

Matrix = npt.NDArray[np.float64]

_SYMMETRIC = 1e-4
_ROUNDED = 1e-4
"""Of the largest eigenvalue: how far below zero rounding may bring the smallest."""

_RIDGE = 1e-6
"""Of the mean variance: what directions that no input has are given, so that among weights of equal
output error the nearest to the old ones are found."""


class Projection(NamedTuple):
    """The best weights of a fabric for a dense weight.

    Attributes:
        factors: one float64 array of `stage.shape` per stage, in the order of `fabric.stages`.
        error: relative squared error, 0 to 1: of the weight, or of the output where a covariance
            of the inputs was given.
    """

    factors: list[Matrix]
    error: float


@dataclass(frozen=True, eq=False)
class Problem:
    """One matrix, one fabric, one metric.

    Attributes:
        fabric: what is fitted.
        weight: (out, in, taps).
        covariance: of the inputs, (in * taps, in * taps), channels major; None for white ones.
        metric: the covariance, and a ridge where it is singular: what solvers minimise.
        root: its Cholesky factor.
    """

    fabric: Fabric
    weight: Matrix
    covariance: Matrix | None = None
    metric: Matrix | None = None
    root: Matrix | None = None

    @cached_property
    def energy(self) -> float:
        """What the error is relative to."""
        return _energy(self.weight, self.covariance)

    def error(self, factors: list[Matrix]) -> float:
        """The relative squared error of given factors; 0 where there is nothing to fit."""
        energy = self.energy
        if not energy > 0:
            return 0.0
        return _energy(self.weight - self.product(factors), self.covariance) / energy

    def product(self, factors: list[Matrix]) -> Matrix:
        """The dense weight that factors stand for, (out, in, taps)."""
        return sum(
            (dense(chain, self.weight.shape) for chain in chains_of(self.fabric, factors)),
            np.zeros(self.weight.shape),
        )

    def inputs(self) -> Matrix:
        """Columns of inputs, (in, any), whose mean outer product is the covariance."""
        inputs = self.weight.shape[1]
        return np.eye(inputs) if self.root is None else self.root.reshape(inputs, -1)

    def target(self) -> Matrix:
        """What the weight makes of them, (out, columns), as chains do that are coloured or not."""
        outputs = len(self.weight)
        if self.root is None:
            return self.weight.transpose(0, 2, 1).reshape(outputs, -1)
        return self.weight.reshape(outputs, -1) @ self.root


def dense(chain: Chain, shape: tuple[int, ...]) -> Matrix:
    """The dense weight of a white branch, (out, in, taps), a strip of inputs at a time."""
    outputs, inputs, taps = shape
    product = np.empty(shape)
    widest = max(link.sinks for link in chain.links)
    step = max(1, inputs * inputs // widest)  # so that no hidden layer is larger than the inputs'
    for start in range(0, inputs, step):
        strip = np.eye(inputs, min(step, inputs - start), -start)
        image = chain.forward(strip).reshape(outputs, taps, -1)
        product[:, start : start + step] = image.transpose(0, 2, 1)
    return product


def _energy(weight: Matrix, covariance: Matrix | None) -> float:
    flat = weight.reshape(weight.shape[0], -1)
    image = flat if covariance is None else flat @ covariance
    return max(0.0, float(np.vdot(flat, image)))


def problem_of(weight: Any, fabric: Fabric, covariance: Any = None) -> Problem:
    """Check the parts of a projection.

    Raises:
        ConfigError: fabric, shapes or covariance do not go together.
        ModelError: the weight has entries that are no numbers.
    """
    _check_kernel(fabric)
    if np.iscomplexobj(weight):
        raise ModelError("A complex weight cannot be projected; project real and imaginary part.")
    dense = np.asarray(weight, np.float64)
    kernel = fabric.kernel or (1,) * max(0, dense.ndim - 2)
    shape = (fabric.out_features, fabric.in_features, *kernel)
    if dense.shape != shape:
        raise ConfigError(
            f"This fabric stands for a weight of shape {shape}; got {dense.shape}. "
            f"{_hint(dense.shape, shape)}It is {fabric}."
        )
    if not np.isfinite(dense).all():
        bad = int(dense.size - np.isfinite(dense).sum())
        raise ModelError(
            f"A weight with NaN or infinity cannot be projected; {bad} of {dense.size} entries are."
        )
    flat = dense.reshape(*dense.shape[:2], math.prod(kernel))
    if covariance is None:
        return Problem(fabric, flat)
    checked = _covariance(covariance, flat.shape[1] * flat.shape[2])
    if not np.trace(checked) > 0:  # no input ever came: any weights do, so the nearest ones
        return Problem(fabric, flat)
    return Problem(fabric, flat, checked, *_positive(checked))


def _hint(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if got == wanted[:2][::-1] and len(wanted) == 2:
        return "Transpose it. "
    if len(got) > 2 and len(wanted) == len(got) and wanted[2:] != got[2:]:
        return f"Give the fabric the taps first: fabric.with_kernel({got[2:]}). "
    return ""


def _check_kernel(fabric: Fabric) -> None:
    if not isinstance(fabric, Fabric):
        raise ConfigError(f"A projection needs a Fabric; got {type(fabric).__name__}.")
    for branch in fabric.branches if fabric.kernel else ():
        if not any(step.kernel for step in branch if isinstance(step, Weighted)):
            raise ConfigError(
                f"Every branch of a convolution needs one stage with the kernel {fabric.kernel}; "
                f"a branch of {fabric} has none."
            )


def _covariance(covariance: Any, width: int) -> Matrix:
    checked = np.asarray(covariance, np.float64)
    if checked.shape != (width, width):
        raise ConfigError(
            f"The covariance of {width} inputs (channels times taps) has the shape "
            f"{(width, width)}; got {checked.shape}."
        )
    if not np.isfinite(checked).all():
        raise ConfigError("The covariance of the inputs has NaN or infinite entries.")
    largest = float(np.abs(checked).max())
    difference = float(np.abs(checked - checked.T).max())
    if difference > _SYMMETRIC * largest:
        raise ConfigError(
            f"A covariance is symmetric; entries of this one differ from their mirror images by up "
            f"to {difference:.3g}."
        )
    return (checked + checked.T) / 2


def _positive(covariance: Matrix) -> tuple[Matrix, Matrix]:
    """The covariance, with a ridge where it is singular, and its Cholesky factor."""
    ridge = _RIDGE * float(np.trace(covariance)) / len(covariance)
    try:
        root: Matrix = np.asarray(np.linalg.cholesky(covariance))
        if float(np.diag(root).min()) ** 2 > ridge:
            return covariance, root
    except np.linalg.LinAlgError:
        pass
    values = np.linalg.eigvalsh(covariance)
    if values[0] < -_ROUNDED * values[-1]:
        raise ConfigError(
            "A covariance has no negative eigenvalues; this one has. Collect it as the mean of the "
            "outer products of the inputs."
        )
    ridge += 2 * max(0.0, -float(values[0]))  # sums of float32 products: below zero by rounding
    metric = covariance + ridge * np.eye(len(covariance))
    return metric, np.asarray(np.linalg.cholesky(metric))
