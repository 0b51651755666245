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

__all__ = ["Ids", "Link", "Matrix", "Solver"]

Ids = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]
Solver = Callable[[Matrix], Matrix]


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


def _added(x: Matrix, places: Ids, width: int) -> Matrix:
    """Rows of x added up at their places, each hit twice at most; the transpose of a gather."""
    total = np.zeros((width, *x.shape[1:]))
    once = np.unique(places, return_index=True)[1]
    total[places[once]] = x[once]
    again = np.delete(np.arange(places.size), once)
    total[places[again]] += x[again]
    return total
