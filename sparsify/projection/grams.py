"""Small symmetric systems, many at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["NEGLIGIBLE", "inverse", "solved"]

Matrix = npt.NDArray[np.float64]

NEGLIGIBLE = 1e-13
"""Of the mean of a Gram matrix' diagonal: what is added to it, so that it can be inverted."""


def inverse(grams: Matrix) -> Matrix:
    """Of positive semidefinite matrices, (..., n, n), those on the brink of it made definite."""
    return np.asarray(np.linalg.inv(_definite(grams)))


def solved(grams: Matrix, right: Matrix) -> Matrix:
    """`inverse(grams) @ right`."""
    return np.asarray(np.linalg.solve(_definite(grams), right))


def _definite(grams: Matrix) -> Matrix:
    size = grams.shape[-1]
    mean = np.trace(grams, axis1=-2, axis2=-1) / size
    ridge = NEGLIGIBLE * mean + np.where(mean > 0, 0.0, 1.0)
    return np.asarray(grams + ridge[..., None, None] * np.eye(size))
