"""Stages as linear maps on columns of features: what the solvers of a projection are made of.

A `Link` is one stage with everything fixed around it: the shuffles, the wrap before it, the fold
behind it. Features are axis 0, so that a stage is a batched product of its blocks, and no factor is
ever a dense matrix.

The spatial stage of a convolution meets its taps in one of two ways. Where the inputs are white,
taps are independent: it writes K times as many columns as it reads (it *spreads*). Where they have
a covariance, the columns are K values of each feature, and the stage *joins* them into one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fabric import Branch, Fabric, GraphStage, Shuffle, Stage, Weighted

__all__ = ["BlockLink", "GraphLink", "Link", "links_of"]

Ids = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]
Solver = Callable[[Matrix], Matrix]

_NEGLIGIBLE = 1e-13
"""Of the mean of a Gram matrix' diagonal: what is added to it, so that it can be inverted."""

_MOST_GATHERED = 2**25
"""Entries of the Gram matrices of a graph's rows; beyond, their diagonals have to do."""


@dataclass(frozen=True, eq=False)
class Link(ABC):
    """One stage between two interfaces of a branch.

    Attributes:
        reads: the feature of the interface before it that each input reads; None for all in order.
        writes: the feature behind it that each output is added to; None for all in order.
        sources: features of the interface before.
        sinks: features of the interface behind.
        taps: of the kernel, 1 for a stage without.
        joins: whether taps come as columns of the input, see above.
    """

    reads: Ids | None
    writes: Ids | None
    sources: int
    sinks: int
    taps: int
    joins: bool

    @abstractmethod
    def forward(self, weight: Matrix, x: Matrix) -> Matrix:
        """Apply to (sources, columns)."""

    @abstractmethod
    def backward(self, weight: Matrix, g: Matrix) -> Matrix:
        """Apply the transpose to (sinks, columns)."""

    @abstractmethod
    def pulled(self, weight: Matrix, y: Matrix) -> Matrix:
        """The transpose applied to (sinks, columns), each tap for itself: (sources, * columns)."""

    @abstractmethod
    def gradient(self, g: Matrix, x: Matrix) -> Matrix:
        """The products of output g and input x at each weight."""

    @abstractmethod
    def gram_behind(self, y: Matrix) -> Matrix:
        """Products of the rows of y, (sinks, any), between outputs of the same block."""

    @abstractmethod
    def preconditioner(self, behind: Matrix, x: Matrix) -> Solver:
        """Solve the normal equations of each block alone, from `gram_behind` and the input."""

    @abstractmethod
    def edges(self) -> tuple[Ids, Ids]:
        """The sink and the source of each weight, taps left out, in the axes of the stage."""

    @abstractmethod
    def norms(self, weight: Matrix) -> tuple[Matrix, Matrix]:
        """Squared norms of the weights that leave each source, and that enter each sink."""

    @abstractmethod
    def scaled(self, weight: Matrix, sources: Matrix, sinks: Matrix) -> Matrix:
        """The weight with factors for each source and sink."""

    def _in(self, x: Any) -> Any:
        return x if self.reads is None else x[self.reads]

    def _in_transposed(self, x: Matrix) -> Matrix:
        return x if self.reads is None else _added(x, self.reads, self.sources)

    def _out(self, y: Matrix) -> Matrix:
        return y if self.writes is None else _added(y, self.writes, self.sinks)

    def _out_transposed(self, y: Any) -> Any:
        return y if self.writes is None else y[self.writes]


@dataclass(frozen=True, eq=False)
class BlockLink(Link):
    """A Kronecker-sparse stage; weights are (a, d, taps, b, c), or (a, d, 1, b, c * taps) joined."""

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
        s = self.stage
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
        return np.matmul(rows, self.blocks(x).swapaxes(-1, -2))

    def gram_behind(self, y: Matrix) -> Matrix:
        """See Link; (a, d, 1, b, b)."""
        rows = self._rows(y, 1)
        return np.matmul(rows, rows.swapaxes(-1, -2))

    def preconditioner(self, behind: Matrix, x: Matrix) -> Solver:
        """See Link."""
        blocks = self.blocks(x)
        left = _inverse(behind)
        right = _inverse(np.matmul(blocks, blocks.swapaxes(-1, -2)))
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
        return weight * inputs[:, :, None, None, :] * outputs[:, :, None, :, None]

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
        return np.take_along_axis(full, self._places[None], axis=2)

    def gram_behind(self, y: Matrix) -> Matrix:
        """See Link; (out,)."""
        return np.einsum("rn,rn->r", *[self._out_transposed(y)] * 2)

    def preconditioner(self, behind: Matrix, x: Matrix) -> Solver:
        """See Link."""
        columns, places = self._columns(x), self._places
        left = 1 / np.maximum(behind, _NEGLIGIBLE * behind.mean() + np.finfo(float).tiny)
        if places.size * places.shape[1] > _MOST_GATHERED:
            power = np.einsum("rn,rn->r", columns, columns)
            power = np.maximum(power, _NEGLIGIBLE * power.mean() + np.finfo(float).tiny)
            return lambda gradient: gradient * left[:, None] / power[places]
        gram = columns @ columns.T
        right = _inverse(gram[places[:, :, None], places[:, None, :]])
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
        return weight * inputs * self._out_transposed(sinks)[:, None]

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


def links_of(fabric: Fabric, branch: Branch, coloured: bool) -> tuple[BlockLink | GraphLink, ...]:
    """The links of a branch.

    Args:
        fabric: whose branch it is.
        branch: the steps.
        coloured: whether the inputs have a covariance, so that taps are joined.

    Example:
        >>> from sparsify.fabric import Fabric, Shuffle, Stage
        >>> fabric = Fabric(4, 2, ((Shuffle(4, stride=2), Stage(2, 1, 2, 1)),))
        >>> links_of(fabric, fabric.branches[0], False)[0].reads.tolist()
        [0, 2, 1, 3]
    """
    weighted = [place for place, step in enumerate(branch) if isinstance(step, Weighted)]
    ends = np.arange(branch[-1].out_features) % fabric.out_features
    for step in reversed(branch[weighted[-1] + 1 :]):  # shuffles behind the last stage
        if isinstance(step, Shuffle):
            before = np.empty_like(ends)
            before[step.permutation()] = ends
            ends = before
    here = np.arange(branch[0].in_features) % fabric.in_features
    sources = fabric.in_features
    found: list[BlockLink | GraphLink] = []
    for place, step in enumerate(branch[: weighted[-1] + 1]):
        if isinstance(step, Shuffle):
            here = here[step.permutation()]
            continue
        is_last = place == weighted[-1]
        sinks = fabric.out_features if is_last else step.out_features
        writes = _or_none(ends, sinks) if is_last else None
        wiring = (_or_none(here, sources), writes, sources, sinks)
        taps, joins = step.taps, coloured and bool(step.kernel)
        if isinstance(step, Stage):
            found.append(BlockLink(*wiring, taps, joins, step))
        else:
            found.append(GraphLink(*wiring, taps, joins, step))
        here, sources = np.arange(sinks), sinks
    return tuple(found)


def _or_none(ids: Ids, width: int) -> Ids | None:
    return None if np.array_equal(ids, np.arange(width)) else ids


def _added(x: Matrix, places: Ids, width: int) -> Matrix:
    """Rows of x added up at their places, each hit twice at most; the transpose of a gather."""
    total = np.zeros((width, *x.shape[1:]))
    once = np.unique(places, return_index=True)[1]
    total[places[once]] = x[once]
    again = np.delete(np.arange(places.size), once)
    total[places[again]] += x[again]
    return total


def _inverse(grams: Matrix) -> Matrix:
    """Of positive semidefinite matrices, (..., n, n), those on the brink of it made definite."""
    size = grams.shape[-1]
    mean = np.trace(grams, axis1=-2, axis2=-1) / size
    ridge = _NEGLIGIBLE * mean + np.where(mean > 0, 0.0, 1.0)
    return np.linalg.inv(grams + ridge[..., None, None] * np.eye(size))
