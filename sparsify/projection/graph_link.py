"""Graph stages as links."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..fabric import GraphStage
from .grams import NEGLIGIBLE, inverse
from .link import Ids, Link, Matrix, Solver

__all__ = ["GraphLink"]

_MOST_GATHERED = 2**25
"""Entries of the Gram matrices of a graph's rows; beyond, their diagonals have to do."""


@dataclass(frozen=True, eq=False)
class GraphLink(Link):
    """A graph stage; weights are (taps, out, degree), or (1, out, degree * taps) joined.

    A product of sparse times dense runs at a small share of a dense one's speed: from a density of
    about 1/16 on, which every budget of practice is above, the dense one is faster.
    """

    stage: GraphStage

    def forward(self, weight: Matrix, x: Matrix) -> Matrix:
        """See Link."""
        product = np.matmul(self._dense(weight), self._columns(x))
        y = product.transpose(1, 0, 2).reshape(self.stage.out_features, -1)
        return self._out(y)

    def backward(self, weight: Matrix, g: Matrix) -> Matrix:
        """See Link."""
        rows = self._rows(g, weight.shape[0])
        total = np.matmul(self._dense(weight).swapaxes(-1, -2), rows).sum(0)
        return self._in_transposed(total.reshape(self.stage.in_features, -1))

    def pulled(self, weight: Matrix, y: Matrix) -> Matrix:
        """See Link."""
        total = np.matmul(self._dense(weight).swapaxes(-1, -2), self._rows(y, 1))
        if self.joins:
            return self._in_transposed(total.reshape(self.stage.in_features, -1))
        spread = total.transpose(1, 0, 2).reshape(self.stage.in_features, -1)
        return self._in_transposed(spread)

    def gradient(self, g: Matrix, x: Matrix) -> Matrix:
        """See Link."""
        rows = self._rows(g, 1 if self.joins else self.taps)
        full = np.matmul(rows, self._columns(x).T)
        return np.asarray(np.take_along_axis(full, self._places[None], axis=2))

    def gram_behind(self, y: Matrix) -> Matrix:
        """See Link; (out,)."""
        rows = self._out_transposed(y)
        return np.asarray(np.einsum("rn,rn->r", rows, rows))

    def preconditioner(self, behind: Matrix, x: Matrix) -> Solver:
        """See Link."""
        columns, places = self._columns(x), self._places
        left = 1 / np.maximum(behind, NEGLIGIBLE * behind.mean() + np.finfo(float).tiny)
        if places.size * places.shape[1] > _MOST_GATHERED:
            power = np.einsum("rn,rn->r", columns, columns)
            power = np.maximum(power, NEGLIGIBLE * power.mean() + np.finfo(float).tiny)
            return lambda gradient: gradient * left[:, None] / power[places]
        gram = columns @ columns.T
        right = inverse(gram[places[:, :, None], places[:, None, :]])
        return lambda gradient: np.einsum("tok,okl->tol", gradient * left[:, None], right)

    def edges(self) -> tuple[Ids, Ids]:
        """See Link; both (out, degree)."""
        columns = self._in(np.arange(self.sources))[self.stage.neighbours()]
        rows = self._out_transposed(np.arange(self.sinks))
        return np.broadcast_to(rows[:, None], columns.shape), columns

    def norms(self, weight: Matrix) -> tuple[Matrix, Matrix]:
        """See Link."""
        squares = weight**2
        inputs = np.zeros((self.stage.in_features, self.taps if self.joins else 1))
        np.add.at(inputs.reshape(-1), self._places, squares.sum(0))
        return self._in_transposed(inputs.sum(1)), self._out(squares.sum((0, 2)))

    def scaled(self, weight: Matrix, sources: Matrix, sinks: Matrix) -> Matrix:
        """See Link."""
        inputs = np.repeat(self._in(sources), self.taps if self.joins else 1)[self._places]
        return np.asarray(weight * inputs * self._out_transposed(sinks)[:, None])

    @property
    def _places(self) -> Ids:
        """The column of each weight, (out, degree or degree * taps)."""
        places = self.stage.neighbours()
        if not self.joins:
            return places
        spread = places[..., None] * self.taps + np.arange(self.taps)
        return spread.reshape(places.shape[0], -1)

    def _dense(self, weight: Matrix) -> Matrix:
        wide = self.stage.in_features * (self.taps if self.joins else 1)
        dense = np.zeros((weight.shape[0], self.stage.out_features, wide))
        np.put_along_axis(dense, np.broadcast_to(self._places, weight.shape), weight, axis=2)
        return dense

    def _columns(self, x: Matrix) -> Matrix:
        x = self._in(x)
        return x.reshape(x.shape[0] * self.taps, -1) if self.joins else x

    def _rows(self, g: Matrix, spread: int) -> Matrix:
        g = self._out_transposed(g)
        return g.reshape(g.shape[0], spread, g.shape[1] // spread).transpose(1, 0, 2)

    def from_factor(self, factor: Matrix) -> Matrix:
        """The weight in the form used here, from `stage.shape`."""
        flat = factor.reshape(self.stage.out_features, self.stage.degree, self.taps)
        if self.joins:
            return flat.reshape(1, self.stage.out_features, -1)
        return np.ascontiguousarray(flat.transpose(2, 0, 1))

    def to_factor(self, weight: Matrix) -> Matrix:
        """The weight in `stage.shape`."""
        flat = weight if self.joins else weight.transpose(1, 2, 0)
        return np.ascontiguousarray(flat).reshape(self.stage.shape)
