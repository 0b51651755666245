"""Local dimension: in how many directions the matrix of a fabric can move."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ...fabric import Branch, Fabric, Shuffle, Stage, Weighted
from ...quiet import load_scipy
from ...steps.scramble import PRIME

__all__ = ["local_dimension"]

Indices = npt.NDArray[np.int64]


@lru_cache(maxsize=1024)
def local_dimension(fabric: Fabric) -> float:
    """Rank of the derivative of the fabric's matrix by its weights, for almost all weights.

    Weights minus the moves that change nothing: a hidden feature a may be added to b where all that
    a reads b reads too, and all that reads b reads a (b = a: scaling). Hidden features beyond what
    a complete block of equal ones needs do not count, nor weights that wrap or fold onto another;
    the dense layer's weights are the limit. Never too low in our comparisons, and exact for all
    families but where a wrap, overlapping branches, switches of one port or equal banded graphs in
    a row leave some more freedom unused: there it is an upper bound.

    Example:
        >>> from sparsify.topology import Butterfly, Clos, Monarch
        >>> local_dimension(Monarch(4).build(16, 16)), local_dimension(Clos(4, 2).build(16, 16))
        (112.0, 80.0)
        >>> local_dimension(Butterfly(radix=2).build(8, 8))
        32.0
    """
    single = [branch for branch in fabric.branches if _depth(branch) == 1]
    total = sum(_of_cascade(fabric, branch) for branch in fabric.branches if _depth(branch) > 1)
    return float(min(fabric.dense_parameters, total + _of_single(fabric, single)))


def _depth(branch: Branch) -> int:
    return sum(isinstance(step, Weighted) for step in branch)


@dataclass(frozen=True, slots=True)
class _Sets:
    """What each feature reads: the class of the feature, and the set of each class."""

    classes: Indices
    sets: Any  # scipy.sparse, 0/1, (classes, members)

    @staticmethod
    def of(reads: Indices, classes: Indices, members: Indices) -> _Sets:
        """From the features that each class reads, several of which may be one member."""
        load_scipy()
        from scipy.sparse import csr_array

        named = members[reads]
        starts = np.arange(len(named) + 1) * named.shape[1]
        shape = (len(named), int(members.max()) + 1)
        sets = csr_array((np.ones(named.size), named.reshape(-1), starts), shape)
        sets.sum_duplicates()
        sets.data[:] = 1
        keys = sets @ np.random.default_rng(PRIME).integers(0, 2**40, shape[1])
        _, first, numbers = np.unique(keys, return_index=True, return_inverse=True)
        return _Sets(numbers.reshape(-1)[classes], sets[first])

    def sizes(self) -> Indices:
        """Members of each set."""
        return np.asarray(np.diff(self.sets.indptr), np.int64)

    def within(self) -> Any:
        """The pairs of classes the first of which lies within the second, as a 0/1 matrix.

        Sets of one size lie within each other where they are equal, and classes differ. So only
        those that a wrap made smaller are compared.
        """
        load_scipy()
        from scipy.sparse import csr_array

        sizes = self.sizes()
        count, small = len(sizes), np.flatnonzero(sizes < sizes.max())
        shared = csr_array(self.sets[small] @ self.sets.T).tocoo()
        keep = (shared.data == sizes[small][shared.row]) & (small[shared.row] != shared.col)
        rows = np.concatenate([np.arange(count), small[shared.row[keep]]])
        columns = np.concatenate([np.arange(count), shared.col[keep]])
        return csr_array((np.ones(len(rows)), (rows, columns)), (count, count))


def _of_cascade(fabric: Fabric, branch: Branch) -> int:
    """The dimension of two or more stages by themselves."""
    places = [place for place, step in enumerate(branch) if isinstance(step, Weighted)]
    stages = [step for step in branch if isinstance(step, Weighted)]
    # Names of the features at the outer sides of the first and the last stage.
    inputs = _moved(np.arange(branch[0].in_features) % fabric.in_features, branch[: places[0]])
    outputs = np.arange(branch[-1].out_features) % fabric.out_features
    outputs = _moved_back(outputs, branch[places[-1] + 1 :])
    total = 0
    for number, step in enumerate(stages):
        weights = step.parameters
        if number == 0:
            reads = _Sets.of(*_rows(step), inputs)
            weights = int(np.sum(reads.sizes()[reads.classes])) * step.taps
        if number == len(stages) - 1:
            read_by = _Sets.of(*_columns(step), outputs)
            weights = int(np.sum(read_by.sizes()[read_by.classes])) * step.taps
        total += weights
    for number, (step, after) in enumerate(itertools.pairwise(stages)):
        first, last = number == 0, number == len(stages) - 2
        before = _Sets.of(*_rows(step), inputs if first else np.arange(step.in_features))
        behind = _Sets.of(*_columns(after), outputs if last else np.arange(after.out_features))
        between = branch[places[number] + 1 : places[number + 1]]
        total -= _idle(_moved(before.classes, between), before, behind, step.taps * after.taps)
    return total


def _idle(classes: Indices, before: _Sets, behind: _Sets, taps: int) -> int:
    """Weights and moves at an interface that do nothing for the matrix."""
    load_scipy()
    from scipy.sparse import csr_array

    ones = np.ones(len(classes))
    shape = (before.sets.shape[0], behind.sets.shape[0])
    alike = csr_array((ones, (classes, behind.classes)), shape).tocoo()
    reads, read_by = before.sizes()[alike.row], behind.sizes()[alike.col]
    needed = np.minimum(alike.data, np.minimum(reads, read_by) * taps)
    surplus = float(np.sum((alike.data - needed) * (reads + read_by)))
    features = csr_array((needed, (alike.row, alike.col)), shape)
    moves = (features.T @ before.within() @ features).multiply(behind.within().T)
    return round(surplus + float(moves.sum()))


def _of_single(fabric: Fabric, branches: Sequence[Branch]) -> int:
    """Weights of one-stage branches: those of the same pair of features are one."""
    if len(branches) == 1 and fabric.is_exact:
        return sum(step.parameters for step in branches[0])
    taps, codes = 1, [np.zeros(0, np.int64)]
    for branch in branches:
        place = next(i for i, step in enumerate(branch) if isinstance(step, Weighted))
        step = branch[place]
        assert isinstance(step, Weighted)
        taps = max(taps, step.taps)
        inputs = _moved(np.arange(branch[0].in_features) % fabric.in_features, branch[:place])
        outputs = np.arange(branch[-1].out_features) % fabric.out_features
        outputs = _moved_back(outputs, branch[place + 1 :])
        reads, classes = _rows(step)
        codes.append((outputs[:, None] * fabric.in_features + inputs[reads[classes]]).reshape(-1))
    ordered = np.sort(np.concatenate(codes))
    return int(np.count_nonzero(np.diff(ordered, prepend=-1))) * taps


def _moved(values: Indices, shuffles: Branch) -> Indices:
    """One value per feature, behind shuffles."""
    for step in shuffles:
        assert isinstance(step, Shuffle)
        values = values[step.permutation()]
    return values


def _moved_back(values: Indices, shuffles: Branch) -> Indices:
    """One value per feature, before shuffles."""
    for step in reversed(shuffles):
        assert isinstance(step, Shuffle)
        values = values[np.argsort(step.permutation())]
    return values


def _rows(step: Weighted) -> tuple[Indices, Indices]:
    """What each different row of a stage reads, and which row each output is."""
    if isinstance(step, Stage):
        return _blocks(step.a, step.c, step.d), _block_of(step.a, step.b, step.d)
    return step.neighbours(), np.arange(step.out_features)


def _columns(step: Weighted) -> tuple[Indices, Indices]:
    """What reads each different column of a stage, and which column each input is."""
    if isinstance(step, Stage):
        return _blocks(step.a, step.b, step.d), _block_of(step.a, step.c, step.d)
    order = np.argsort(step.neighbours().reshape(-1), kind="stable") // step.degree
    return order.reshape(step.in_features, -1), np.arange(step.in_features)


def _blocks(a: int, c: int, d: int) -> Indices:
    grid = np.arange(a * c * d).reshape(a, c, d)
    return grid.transpose(0, 2, 1).reshape(a * d, c)


def _block_of(a: int, b: int, d: int) -> Indices:
    index = np.arange(a * b * d)
    return index // (b * d) * d + index % d
