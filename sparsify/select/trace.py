"""Rows of a fabric's path counts, traced back from some or all of its outputs, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..fabric import Branch, GraphStage, Step, Weighted
from ..steps.scramble import permutations
from .flow import sparse_mask, step_backward

__all__ = ["blocks", "fan_in", "row_cost", "rows_to_trace", "traced"]

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_FEWEST_ROWS = 64
_MOST_WORK = 2e8  # additions; some 0.3 s
_BLOCK = 1 << 21  # numbers in memory at once


def rows_to_trace(count: int, cost: float) -> Indices:
    """All of `count` rows where they cost little, else a sample of them.

    Args:
        count: rows that there are.
        cost: additions per row.

    Example:
        >>> len(rows_to_trace(512, 1e4)), len(rows_to_trace(4096, 1e6))
        (512, 200)
    """
    affordable = max(_FEWEST_ROWS, int(_MOST_WORK / max(cost, 1)))
    if count <= affordable:
        return np.arange(count)
    return np.sort(permutations(1, count, 0)[0][:affordable])


def row_cost(steps: Sequence[Step]) -> float:
    """Work per row traced back through steps from a single output, in additions of a graph."""
    later = sum(
        (step.out_features * step.degree if isinstance(step, GraphStage) else 0)
        + 2 * (step.in_features + step.out_features)
        for step in steps[:-1]
    )
    return float(later + (steps[-1].in_features if steps else 0))


def blocks(rows: Indices, width: int) -> Iterator[Indices]:
    """The rows in blocks that fit into memory for features of this width."""
    size = max(1, _BLOCK // width)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def traced(branch: Branch, rows: Indices) -> Iterator[Matrix]:
    """The paths from the inputs of each step to the rows, from the last step to the first."""
    values: Matrix | None = None
    for step in reversed(branch):
        if values is not None:
            values = step_backward(step, values)
        elif isinstance(step, GraphStage):
            values = sparse_mask(step)[rows].toarray()
        else:
            ones = np.zeros((len(rows), step.out_features))
            ones[np.arange(len(rows)), rows] = 1
            values = step_backward(step, ones)
        yield values


def fan_in(steps: Sequence[Step]) -> int:
    """Paths that end in one output of a cascade, taps not counted.

    Example:
        >>> from sparsify.fabric import Stage
        >>> fan_in((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)))
        16
    """
    return math.prod(step.fan_in // step.taps for step in steps if isinstance(step, Weighted))
