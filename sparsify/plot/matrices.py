"""Masks and path counts as matrices small enough to draw, without the n x n ones behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..fabric import Fabric, GraphStage, Shuffle, Stage, Step
from ..quiet import load_scipy

__all__ = ["MOST", "Matrix", "mask_of", "paths_of"]

MOST = 512
"""Features along an axis from which on several share a cell of a picture."""

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matrix:
    """A matrix of a fabric, scaled down where it is large.

    Args:
        values: (rows, columns); the mean of the entries that share a cell.
        rows: outputs of the fabric that share one row of it.
        columns: inputs that share one column.
    """

    values: Values
    rows: int = 1
    columns: int = 1

    @property
    def is_scaled(self) -> bool:
        """Whether a cell stands for several entries."""
        return self.rows * self.columns > 1


def mask_of(fabric: Fabric, branch: int, position: int) -> Matrix:
    """The 0/1 matrix of a step, wrap and fold included; the filled share of a cell where scaled.

    Args:
        fabric: whose step it is.
        branch: number of the branch.
        position: number of the step in it.

    Example:
        >>> mask_of(Fabric(2, 3, ((Stage(1, 3, 2, 1),),)), 0, 0).values.tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    steps = fabric.branches[branch]
    rows, columns = _entries(steps[position])
    height, width = steps[position].out_features, steps[position].in_features
    if position == 0:
        width = fabric.in_features
    if position == len(steps) - 1:
        height = fabric.out_features
    tall, wide = _group(height), _group(width)
    cells = rows % height // tall * -(-width // wide) + columns % width // wide
    shape = (-(-height // tall), -(-width // wide))
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    return Matrix(counts / _areas(height, width), tall, wide)


def paths_of(fabric: Fabric) -> Matrix:
    """How many paths lead from each input to each output; their mean over a cell where scaled.

    Example:
        >>> paths_of(Fabric(4, 4, ((Stage(2, 2, 2, 1), Stage(1, 2, 2, 2)),))).values.max().item()
        1.0
    """
    height, width = fabric.out_features, fabric.in_features
    tall, wide = _group(height), _group(width)
    start = np.zeros((width, -(-width // wide)))
    start[np.arange(width), np.arange(width) // wide] = 1
    total = np.zeros((height, start.shape[1]))
    for branch in fabric.branches:
        flow = start[np.arange(branch[0].in_features) % width]
        for step in branch:
            flow = _follow(flow, step)
        total += flow[:height]
        total[: len(flow) - height] += flow[height:]
    sums = np.add.reduceat(total, np.arange(0, height, tall), axis=0)
    return Matrix(sums / _areas(height, width), tall, wide)


def _group(width: int) -> int:
    """Equal groups, the last one perhaps smaller: uneven ones would show stripes."""
    return -(-width // MOST)


def _areas(height: int, width: int) -> Values:
    """How many entries share each cell."""
    sides = [np.bincount(np.arange(size) // _group(size)) for size in (height, width)]
    return np.outer(*sides).astype(np.float64)


def _entries(step: Step) -> tuple[Indices, Indices]:
    """Row and column of every entry of a step's own mask."""
    if isinstance(step, Stage):
        outer, b, c, inner = np.indices((step.a, step.b, step.c, step.d)).reshape(4, -1)
        return (outer * step.b + b) * step.d + inner, (outer * step.c + c) * step.d + inner
    rows = np.arange(step.out_features)
    if isinstance(step, Shuffle):
        return rows, step.permutation()
    return np.repeat(rows, step.degree), step.neighbours().reshape(-1)


def _follow(flow: Values, step: Step) -> Values:
    """Paths to the inputs of a step (features, cells) become paths to its outputs."""
    if isinstance(step, Shuffle):
        return flow[step.permutation()]
    if isinstance(step, GraphStage):
        return _sparse_product(step, flow)
    met = flow.reshape(step.a, step.c, step.d, -1).sum(1)
    return np.repeat(met[:, None], step.b, axis=1).reshape(step.out_features, -1)


def _sparse_product(step: GraphStage, flow: Values) -> Values:
    load_scipy()
    from scipy.sparse import csr_array

    rows = np.arange(0, step.out_features * step.degree + 1, step.degree)
    ones = np.ones(step.out_features * step.degree)
    mask = csr_array(
        (ones, step.neighbours().reshape(-1), rows), shape=(step.out_features, step.in_features)
    )
    product: Values = mask @ flow
    return product
