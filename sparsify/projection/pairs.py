"""Two complete stages of blocks, data-aware: block-coordinate descent with the whole covariance.

Every block of inputs i shares r hidden features with every block of outputs j. With the weight in
the order of those blocks, the fabric is U[j, :, i] @ V[i, j] on rectangle (j, i), and all that a
solver needs are small solves: the rows of the last stage are independent least squares; a block of
the first stage has a Gram matrix that is a Kronecker product of an r x r and a block of the
covariance. The cost of a sweep is a few times that of the fabric applied to its covariance, no
columns of inputs are ever formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from .block_link import BlockLink, blocks_in, numbers_in
from .grams import inverse, solved
from .links import links_of
from .problem import Problem

__all__ = ["Pairs", "pairs_of", "refine"]

Ids = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

_FURTHER = 0.5
_FASTER, _SLOWER = 1.4, 0.5
"""How far to go on along what a sweep has changed, and how that grows and shrinks."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Where the parts of two complete stages lie; I blocks of inputs, J of outputs.

    Attributes:
        columns: the inputs (with their taps) of each block, (I, c).
        rows: the outputs of each block, (J, b).
        first: for (i, j, link) the row of the first factor, seen as (I * hidden of i, c).
        second: for (j, i, link) the column of the second factor's block j, (J, I, r).
    """

    columns: Ids
    rows: Ids
    first: Ids
    second: Ids


def pairs_of(problem: Problem) -> Pairs | None:
    """The blocks of a problem whose fabric is two complete stages; None of any other fabric.

    A kernel has to be in the first stage, so that its taps are further inputs.
    """
    fabric = problem.fabric
    if len(fabric.branches) > 1 or len(fabric.stages) != 2 or not fabric.is_exact:
        return None
    links = links_of(fabric, fabric.branches[0], True)
    if not all(isinstance(link, BlockLink) for link in links) or links[1].taps > 1:
        return None
    one, two = cast("tuple[BlockLink, BlockLink]", links)
    s, t = one.stage, two.stage
    count_in, count_out = s.a * s.d, t.a * t.d
    hidden = np.arange(s.out_features)
    source = blocks_in(s.a, s.b, s.d)
    places = hidden if two.reads is None else np.argsort(two.reads)  # where stage two reads each
    sink, inner = blocks_in(t.a, t.c, t.d)[places], numbers_in(t.a, t.c, t.d)[places]
    cells = np.bincount(source * count_out + sink, minlength=count_in * count_out)
    if cells.min() != cells.max():
        return None
    links_each = int(cells[0])
    order = np.lexsort((sink, source)).reshape(count_in, count_out, links_each)
    outputs, inputs = two.edges()[0], one.edges()[1]
    columns = inputs[:, :, 0, :].reshape(count_in, s.c)
    taps = columns[..., None] * one.taps + np.arange(one.taps)
    return Pairs(
        taps.reshape(count_in, -1),
        outputs[:, :, :, 0].reshape(count_out, t.b),
        (source * s.b + numbers_in(s.a, s.b, s.d))[order],
        inner[order].transpose(1, 0, 2),
    )


def refine(
    problem: Problem, pairs: Pairs, factors: list[Matrix], sweeps: int, enough: float
) -> list[Matrix]:
    """Lower the output error of given factors; it never rises.

    Args:
        problem: with a covariance.
        pairs: of its fabric.
        factors: the start, of `stage.shape`.
        sweeps: rounds over both stages at most.
        enough: relative gain of a sweep at which it stops.

    Returns:
        New factors.
    """
    descent = _Descent(problem, pairs)
    count_out = pairs.first.shape[1]
    v = factors[0].reshape(-1, pairs.columns.shape[1])[pairs.first]
    second = factors[1].reshape(count_out, pairs.rows.shape[1], -1)
    v = descent.run(v, sweeps, enough)
    u, _ = descent.last(v)
    flat = np.empty((pairs.first.size, v.shape[-1]))
    flat[pairs.first] = v
    spread = np.empty_like(second)
    spread[np.arange(count_out)[:, None, None], :, pairs.second] = u.transpose(0, 2, 3, 1)
    return [flat.reshape(factors[0].shape), spread.reshape(factors[1].shape)]


class _Descent:
    """The two half sweeps, with weight and covariance in the order of the blocks."""

    def __init__(self, problem: Problem, pairs: Pairs) -> None:
        assert problem.metric is not None
        count_in, inputs = pairs.columns.shape
        columns = pairs.columns.reshape(-1)
        self.metric = problem.metric[columns[:, None], columns]
        flat = problem.weight.reshape(len(problem.weight), -1)
        weight = flat[pairs.rows.reshape(-1)[:, None], columns]
        products = weight @ self.metric
        self.energy = float(np.vdot(weight, products))
        shape = (*pairs.rows.shape, count_in, inputs)
        self.products = products.reshape(shape).transpose(2, 0, 1, 3)  # (I, J, b, c)
        edges = [slice(i * inputs, (i + 1) * inputs) for i in range(count_in)]
        self.inverses = [inverse(self.metric[edge, edge]) for edge in edges]

    def run(self, v: Matrix, sweeps: int, enough: float) -> Matrix:
        """Sweeps over both stages, each followed by a step further in its direction."""
        further = _FURTHER
        u, error = self.last(v)
        for _ in range(sweeps):
            before, (plain, gain) = error, self.first(v, u)
            beyond = plain + further * (plain - v)
            u, error = self.last(beyond)
            if error < before - gain:
                v, further = beyond, further * _FASTER
            else:
                v, further = plain, further * _SLOWER
                u, error = self.last(plain)
            if before - error <= enough * before:
                break
        return v

    def first(self, v: Matrix, u: Matrix) -> tuple[Matrix, float]:
        """One block of inputs after the other, all others at their newest value.

        Returns:
            The first stage, and by how much it has lowered the squared output error.
        """
        v, gain = v.copy(), 0.0
        count_in, count_out, rank, inputs = v.shape
        outputs = u.shape[1]
        flat = u.reshape(count_out, outputs, count_in * rank)
        for i in range(count_in):
            strip = self.metric[i * inputs : (i + 1) * inputs]  # its mirror image is the transpose
            columns = strip.reshape(inputs, count_in, inputs).transpose(1, 2, 0)
            hidden = np.matmul(v.reshape(count_in, -1, inputs), columns)
            ordered = hidden.reshape(count_in, count_out, rank, inputs).transpose(1, 0, 2, 3)
            made = np.matmul(flat, ordered.reshape(count_out, count_in * rank, inputs))
            error = self.products[i] - made
            own = u[:, :, i]
            gradient = np.matmul(own.swapaxes(1, 2), error)
            gram = inverse(np.matmul(own.swapaxes(1, 2), own))
            change = np.matmul(np.matmul(gram, gradient), self.inverses[i])
            v[i] += change
            gain += float(np.vdot(change, gradient))
        return v, gain

    def last(self, v: Matrix) -> tuple[Matrix, float]:
        """The best last stage, (J, b, I, r), and the squared output error with it."""
        count_in, count_out, rank, inputs = v.shape
        width = count_in * rank
        wanted = np.matmul(self.products, v.swapaxes(2, 3))  # (I, J, b, r)
        right = wanted.transpose(1, 2, 0, 3).reshape(count_out, -1, width)
        best = np.empty_like(right)
        metric = self.metric.reshape(count_in, inputs, -1)
        step = max(1, len(self.metric) // width)  # as many blocks as fill one copy of the weight
        for start in range(0, count_out, step):
            some = v[:, start : start + step]
            number = some.shape[1]
            spread = np.matmul(some.reshape(count_in, -1, inputs), metric)
            parts = spread.reshape(count_in, number, rank, count_in, inputs)
            parts = parts.transpose(1, 3, 0, 2, 4).reshape(number, count_in, width, inputs)
            gram = np.matmul(parts, some.transpose(1, 0, 3, 2))  # (number, I', width, r)
            gram = gram.transpose(0, 2, 1, 3).reshape(number, width, width)
            for j in range(number):
                best[start + j] = solved(gram[j], right[start + j].T).T
        error = max(0.0, self.energy - float(np.vdot(best, right)))
        return best.reshape(count_out, -1, count_in, rank), error
