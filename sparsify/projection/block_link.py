"""Kronecker-sparse stages as links: batched products of their blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..fabric import Stage
from .grams import inverse
from .link import Ids, Link, Matrix, Solver

__all__ = ["BlockLink", "blocks_in", "numbers_in"]


@dataclass(frozen=True, eq=False)
class BlockLink(Link):
    """A Kronecker-sparse stage; weights (a, d, taps, b, c), or (a, d, 1, b, c * taps) joined."""

    stage: Stage

    def forward(self, weight: Matrix, x: Matrix) -> Matrix:
        """See Link."""
        s, blocks = self.stage, self.blocks(x)
        columns = weight.shape[2] * blocks.shape[-1]
        y = np.empty((s.a, s.b, s.d, weight.shape[2], blocks.shape[-1]))
        np.matmul(weight, blocks, out=y.transpose(0, 2, 3, 1, 4))
        return self._out(y.reshape(s.out_features, columns))

    def backward(self, weight: Matrix, g: Matrix) -> Matrix:
        """See Link."""
        total = np.matmul(weight.swapaxes(-1, -2), self._rows(g, weight.shape[2]))
        if weight.shape[2] > 1:
            total = total.sum(2, keepdims=True)
        return self._from_blocks(total)

    def pulled(self, weight: Matrix, y: Matrix) -> Matrix:
        """See Link."""
        return self._from_blocks(np.matmul(weight.swapaxes(-1, -2), self._rows(y, 1)))

    def _from_blocks(self, total: Matrix) -> Matrix:
        """The transpose of `blocks`, (sources, columns); taps come as columns."""
        s, columns = self.stage, total.shape[-1]
        if self.joins:
            parts = total.reshape(s.a, s.d, s.c, self.taps, columns).transpose(0, 2, 1, 3, 4)
        else:
            parts = total.transpose(0, 3, 1, 2, 4)
        return self._in_transposed(parts.reshape(s.in_features, -1))

    def gradient(self, g: Matrix, x: Matrix) -> Matrix:
        """See Link."""
        rows = self._rows(g, 1 if self.joins else self.taps)
        return np.asarray(np.matmul(rows, self.blocks(x).swapaxes(-1, -2)))

    def gram_behind(self, y: Matrix) -> Matrix:
        """See Link; (a, d, 1, b, b)."""
        rows = self._rows(y, 1)
        return np.asarray(np.matmul(rows, rows.swapaxes(-1, -2)))

    def preconditioner(self, behind: Matrix, x: Matrix) -> Solver:
        """See Link."""
        blocks = self.blocks(x)
        left = inverse(behind)
        right = inverse(np.matmul(blocks, blocks.swapaxes(-1, -2)))
        return lambda gradient: np.matmul(np.matmul(left, gradient), right)

    def edges(self) -> tuple[Ids, Ids]:
        """See Link; both (a, d, b, c)."""
        s = self.stage
        inputs = self._in(np.arange(self.sources)).reshape(s.a, s.c, s.d).transpose(0, 2, 1)
        outputs = self._out_transposed(np.arange(self.sinks)).reshape(s.a, s.b, s.d)
        rows, columns = np.broadcast_arrays(
            outputs.transpose(0, 2, 1)[..., :, None], inputs[..., None, :]
        )
        return rows, columns

    def norms(self, weight: Matrix) -> tuple[Matrix, Matrix]:
        """See Link."""
        s = self.stage
        squares = weight**2
        inputs = squares.sum((2, 3)).reshape(s.a, s.d, s.c, -1).sum(-1)
        outputs = squares.sum((2, 4)).reshape(s.a, s.d, s.b)
        return (
            self._in_transposed(inputs.transpose(0, 2, 1).reshape(s.in_features)),
            self._out(outputs.transpose(0, 2, 1).reshape(s.out_features)),
        )

    def scaled(self, weight: Matrix, sources: Matrix, sinks: Matrix) -> Matrix:
        """See Link."""
        s = self.stage
        inputs = self._in(sources).reshape(s.a, s.c, s.d).transpose(0, 2, 1)
        outputs = self._out_transposed(sinks).reshape(s.a, s.b, s.d).transpose(0, 2, 1)
        if self.joins:
            inputs = np.repeat(inputs, self.taps, axis=-1)
        return np.asarray(weight * inputs[:, :, None, None, :] * outputs[:, :, None, :, None])

    def blocks(self, x: Matrix) -> Matrix:
        """Columns of features as the blocks read them, (a, d, 1, c or c * taps, columns)."""
        s, x = self.stage, self._in(x)
        if not self.joins:
            return x.reshape(s.a, s.c, s.d, 1, x.shape[1]).transpose(0, 2, 3, 1, 4)
        parts = x.reshape(s.a, s.c, s.d, self.taps, x.shape[1] // self.taps)
        return parts.transpose(0, 2, 1, 3, 4).reshape(s.a, s.d, 1, s.c * self.taps, -1)

    def _rows(self, g: Matrix, spread: int) -> Matrix:
        """What the blocks write, (a, d, spread, b, columns)."""
        s, g = self.stage, self._out_transposed(g)
        return g.reshape(s.a, s.b, s.d, spread, g.shape[1] // spread).transpose(0, 2, 3, 1, 4)

    def from_factor(self, factor: Matrix) -> Matrix:
        """The weight in the form used here, from `stage.shape`."""
        s = self.stage
        flat = factor.reshape(s.a, s.d, s.b, s.c, self.taps)
        if self.joins:
            return flat.reshape(s.a, s.d, 1, s.b, s.c * self.taps)
        return np.ascontiguousarray(flat.transpose(0, 1, 4, 2, 3))

    def to_factor(self, weight: Matrix) -> Matrix:
        """The weight in `stage.shape`."""
        if self.joins:
            return np.ascontiguousarray(weight).reshape(self.stage.shape)
        return np.ascontiguousarray(weight.transpose(0, 1, 3, 4, 2)).reshape(self.stage.shape)


def blocks_in(a: int, size: int, d: int) -> Ids:
    """The block (a, d) of each feature (a, size, d).

    Example:
        >>> blocks_in(2, 2, 2).tolist()
        [0, 1, 0, 1, 2, 3, 2, 3]
    """
    return np.broadcast_to(np.arange(a * d).reshape(a, 1, d), (a, size, d)).reshape(-1)


def numbers_in(a: int, size: int, d: int) -> Ids:
    """The number of each feature (a, size, d) within its block.

    Example:
        >>> numbers_in(2, 2, 2).tolist()
        [0, 0, 1, 1, 0, 0, 1, 1]
    """
    return np.broadcast_to(np.arange(size)[:, None], (a, size, d)).reshape(-1)
