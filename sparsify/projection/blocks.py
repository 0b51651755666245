"""The best approximation of a low rank, of many blocks at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..quiet import load_scipy

__all__ = ["low_rank"]

Matrix = npt.NDArray[np.float64]

_NEGLIGIBLE = 1e-13
"""Of the largest eigenvalue of a Gram matrix: below, a direction does not exist."""

_LARGE = 256
"""Singular values of a block from which on it is worth to compute the leading ones alone."""


def low_rank(blocks: Matrix, rank: int, gram: Matrix | None = None) -> tuple[Matrix, Matrix]:
    """Split each block into two factors through `rank` features, with the least squared error.

    Args:
        blocks: (count, rows, columns).
        rank: features between the factors; more than a block has singular values share them.
        gram: the metric of the columns, (count, columns, columns); the identity by default.

    Returns:
        Left (count, rows, rank) and right (count, rank, columns). The rows of the right one are
        orthonormal in the metric, up to the sharing.

    Example:
        >>> left, right = low_rank(np.ones((1, 2, 3)), 1)
        >>> np.allclose(left @ right, 1)
        True

    Reference:
        Eckart and Young 1936.
    """
    if gram is None:
        left, right = _truncated(blocks, rank)
    else:
        values, vectors = np.linalg.eigh(gram)
        exists = values > _NEGLIGIBLE * values[..., -1:]
        size = np.sqrt(np.where(exists, values, 0))
        inverse = np.divide(1.0, size, out=np.zeros_like(size), where=exists)
        left, right = _truncated(blocks @ (vectors * size[:, None, :]), rank)
        right = (right * inverse[:, None, :]) @ vectors.swapaxes(-1, -2)
    surplus = rank - left.shape[-1]
    return (left, right) if surplus <= 0 else _shared(left, right, rank)


def _truncated(blocks: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    _, rows, columns = blocks.shape
    if min(rows, columns) >= _LARGE and 2 * rank <= min(rows, columns):
        pairs = [_leading(block, rank) for block in blocks]
        return np.stack([left for left, _ in pairs]), np.stack([right for _, right in pairs])
    u, s, vt = np.linalg.svd(blocks, full_matrices=False)
    kept = min(rank, s.shape[-1])
    return u[..., :kept] * s[..., None, :kept], vt[..., :kept, :]


def _leading(block: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """The same from the leading eigenvectors of a Gram matrix, a fifth of the work of an SVD.

    The space that they span is as exact: an error of it enters the approximation squared.
    """
    load_scipy()
    from scipy.linalg import eigh

    rows, columns = block.shape
    if columns > rows:
        left, right = _leading(block.T, rank)
        sizes = np.sqrt((left**2).sum(0))
        return right.T * sizes, np.divide(left, sizes, out=np.zeros_like(left), where=sizes > 0).T
    last = (columns - rank, columns - 1)
    _, vectors = eigh(block.T @ block, subset_by_index=last, check_finite=False)
    return block @ vectors, vectors.T


def _shared(left: Matrix, right: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Spread few features over more by an isometry, so that none is dead to training."""
    few = left.shape[-1]
    places = np.arange(rank) + 0.5
    cosines = np.cos(np.pi / rank * np.arange(few)[:, None] * places) * np.sqrt(2 / rank)
    cosines[0] /= np.sqrt(2)  # the first rows of an orthogonal matrix, (few, rank)
    return left @ cosines, cosines.T @ right
