"""Path counts pushed through a fabric, a few features at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fabric import Fabric, GraphStage, Shuffle, Stage, Step
from ..quiet import load_scipy

__all__ = ["backward", "folded", "forward", "sparse_mask", "step_backward", "step_forward"]

Matrix = npt.NDArray[np.float64]


def forward(fabric: Fabric, values: Matrix) -> Matrix:
    """Paths from weighted inputs: values (rows, in_features) to (rows, out_features).

    Example:
        >>> fabric = Fabric(4, 2, ((Stage(2, 1, 2, 1),),))
        >>> forward(fabric, np.eye(4)).T.tolist()
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    """
    total = np.zeros((len(values), fabric.out_features))
    for branch in fabric.branches:
        wide = _wrapped(values, branch[0].in_features)
        for step in branch:
            wide = step_forward(step, wide)
        total += folded(wide, fabric.out_features)
    return total


def backward(fabric: Fabric, values: Matrix) -> Matrix:
    """Paths to weighted outputs: values (rows, out_features) to (rows, in_features).

    Example:
        >>> fabric = Fabric(4, 2, ((Stage(2, 1, 2, 1),),))
        >>> backward(fabric, np.eye(2)).tolist()
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    """
    total = np.zeros((len(values), fabric.in_features))
    for branch in fabric.branches:
        wide = _wrapped(values, branch[-1].out_features)
        for step in reversed(branch):
            wide = step_backward(step, wide)
        total += folded(wide, fabric.in_features)
    return total


def step_forward(step: Step, values: Matrix) -> Matrix:
    """Each output is the sum of the inputs that it reads, (rows, in) to (rows, out)."""
    if isinstance(step, Shuffle):
        return values[:, step.permutation()]
    if isinstance(step, GraphStage):
        return np.ascontiguousarray((sparse_mask(step) @ values.T).T)
    return _mixed(values, step.a, step.b, step.c, step.d)


def step_backward(step: Step, values: Matrix) -> Matrix:
    """Each input is the sum of the outputs that read it, (rows, out) to (rows, in)."""
    if isinstance(step, Shuffle):
        before = np.empty_like(values)
        before[:, step.permutation()] = values
        return before
    if isinstance(step, GraphStage):
        return np.ascontiguousarray((sparse_mask(step).T @ values.T).T)
    return _mixed(values, step.a, step.c, step.b, step.d)


@lru_cache(maxsize=16)
def sparse_mask(step: Step) -> Any:
    """The 0/1 support of a step as a scipy.sparse matrix (out, in)."""
    load_scipy()
    from scipy import sparse

    if isinstance(step, Stage):
        block = sparse.csr_array(np.ones((step.b, step.c)))
        inner = sparse.kron(block, sparse.eye_array(step.d), format="csr")
        return sparse.csr_array(sparse.kron(sparse.eye_array(step.a), inner, format="csr"))
    reads = step.permutation() if isinstance(step, Shuffle) else step.neighbours()
    reads = reads.reshape(step.out_features, -1)
    starts = np.arange(step.out_features + 1) * reads.shape[1]
    shape = (step.out_features, step.in_features)
    return sparse.csr_array((np.ones(reads.size), reads.reshape(-1), starts), shape)


def _mixed(values: Matrix, a: int, b: int, c: int, d: int) -> Matrix:
    sums = values.reshape(len(values), a, c, d).sum(2, keepdims=True)
    return np.broadcast_to(sums, (len(values), a, b, d)).reshape(len(values), a * b * d)


def _wrapped(values: Matrix, wide: int) -> Matrix:
    surplus = wide - values.shape[1]
    return np.concatenate([values, values[:, :surplus]], axis=1) if surplus else values


def folded(wide: Matrix, width: int) -> Matrix:
    """The surplus features added to the first ones."""
    if wide.shape[1] == width:
        return wide
    values = wide[:, :width].copy()
    values[:, : wide.shape[1] - width] += wide[:, width:]
    return values
