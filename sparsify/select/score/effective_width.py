"""How many directions the product of Gaussian factors treats alike."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ...fabric import Branch, Fabric, GraphStage, Shuffle, Step, Weighted
from ..digits import link
from ..flow import backward, folded, step_backward
from ..trace import blocks, fan_in, row_cost, rows_to_trace, traced
from ..width import fast_widths

__all__ = ["effective_width", "effective_width_error", "isometry", "isometry_error"]

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def effective_width(fabric: Fabric) -> float:
    """Participation ratio of the singular spectrum at Gaussian initialisation.

    out_features**2 / E ||W W'||_F^2, every output of variance one. The expectation over the weights
    is exact: with row a of the product of the first stages as q_a, V = E (q_a . q_b)^2 and
    T = E |q_a|^2 |q_b|^2 go through a stage as D M V M' D, and both diagonals become T + 2 V. Both
    are sums of B diag(x) B' over the stages before, B the normalised path counts; so only diagonals
    are kept, and of large graphs some rows stand for all (see `effective_width_error`).

    Example:
        >>> from sparsify.topology import Monarch
        >>> effective_width(Monarch(4).build(16, 16)) * 15
        64.0

    Reference:
        NeuroFabric, arXiv 2002.08339 (rating topologies before training).
    """
    return _measured(fabric)[0]


def effective_width_error(fabric: Fabric) -> float | None:
    """Standard error over the sampled rows, relative; None where all rows count."""
    return _measured(fabric)[1]


def isometry(fabric: Fabric) -> float:
    """How far the product is from an isometry: out_features / effective width - 1.

    0 where the rows are orthogonal; with more outputs than inputs it cannot go below
    out_features / in_features - 1.

    Example:
        >>> from sparsify.topology import LowRank
        >>> round(isometry(LowRank(rank=16).build(16, 16)), 3)
        2.199
    """
    return fabric.out_features / effective_width(fabric) - 1


def isometry_error(fabric: Fabric) -> float | None:
    """Relative error of the isometry where the effective width is estimated."""
    error, value = effective_width_error(fabric), isometry(fabric)
    return None if error is None else error * (value + 1) / max(value, 1e-12)


@lru_cache(maxsize=1024)
def _measured(fabric: Fabric) -> tuple[float, float | None]:
    if _has_closed_form(fabric):
        return fast_widths(fabric)[0], None
    outputs, count = fabric.out_features, len(fabric.branches)
    parts = [_Moments(branch, fabric.in_features, outputs) for branch in fabric.branches]
    total = sum(part.total for part in parts)
    for one, two in itertools.combinations(parts, 2):
        shared = _overlap(fabric, one.branch, two.branch)
        total += 2 * (float(one.column_sums @ two.column_sums) + outputs + shared)
    variance = sum(part.variance for part in parts)
    error = math.sqrt(variance) / total if variance else None
    return outputs**2 * count**2 / total, error


def _has_closed_form(fabric: Fabric) -> bool:
    """Whether `fast_widths` is exact: digits fit between any two stages, no wrap in front."""
    first = fabric.branches[0][0]
    if not fabric.is_exact and (len(fabric.branches) > 1 or first.in_features > fabric.in_features):
        return False
    return all(_digits_fit(branch) for branch in fabric.branches)


def _digits_fit(branch: Branch) -> bool:
    places = [place for place, step in enumerate(branch) if isinstance(step, Weighted)]
    inner = branch[places[0] : places[-1] + 1]
    if any(
        isinstance(s, GraphStage) or (isinstance(s, Shuffle) and s.stride is None) for s in inner
    ):
        return False
    return all(link(branch[place:]) is not None for place in places)


class _Moments:
    """The recursion along one branch: what it adds to the diagonals behind each stage."""

    def __init__(self, branch: Branch, inputs: int, outputs: int) -> None:
        self.branch, self.inputs = branch, inputs
        self.products: list[Matrix | None] = []
        self.norms: list[Matrix | None] = []
        self.variance = 0.0
        for place, step in enumerate(branch):
            self._append(step, branch[: place + 1])
        self.total, self.column_sums = self._summed(outputs)
        self.total += self._of_folded(outputs)

    def _append(self, step: Step, part: Branch) -> None:
        if isinstance(step, Shuffle):
            self.products.append(None)
            self.norms.append(None)
            return
        rows = rows_to_trace(step.out_features, len(self.branch) * row_cost(part))
        product, norm = self._pairs(part, rows, rows)
        self.products.append(_filled(norm + product, rows, step.out_features))
        self.norms.append(_filled(2 * product, rows, step.out_features))
        if len(rows) < step.out_features:
            spread = float(np.var(norm + product, ddof=1))
            self.variance += step.out_features**2 * spread / len(rows)

    def _pairs(self, part: Branch, rows: Indices, others: Indices) -> tuple[Matrix, Matrix]:
        """V and T of pairs of rows behind a part of the branch, before its last correction."""
        products, norms = np.zeros(len(rows)), np.ones(len(rows))
        for chosen in blocks(np.arange(len(rows)), max(step.in_features for step in part)):
            place = len(part)
            lefts = traced(part, rows[chosen])
            rights = itertools.repeat(None) if rows is others else traced(part, others[chosen])
            for left, right in zip(lefts, rights, strict=False):
                place -= 1
                scale = 1 / fan_in(part[place:]) ** 2
                other = left if right is None else right
                product = self.products[place - 1] if place else None
                norm = self.norms[place - 1] if place else None
                if product is not None and norm is not None:
                    both = left * other
                    products[chosen] += scale * (both @ product)
                    norms[chosen] += scale * (both @ norm)
            start = folded(left, self.inputs) * folded(other, self.inputs)
            products[chosen] += scale * np.sum(start, axis=1)
        return products, norms

    def _summed(self, outputs: int) -> tuple[float, Matrix]:
        """Sum of V over the outputs, and the sums of the columns of the normalised path counts."""
        wide = self.branch[-1].out_features
        values = np.ones((1, wide))
        values[:, : wide - outputs] = values[:, outputs:] = 0.5
        result = 0.0
        for step, product in zip(reversed(self.branch), reversed(self.products), strict=True):
            if product is not None:
                result += float(values[0] ** 2 @ product)
            values = step_backward(step, values) / fan_in((step,))
        columns = folded(values, self.inputs)[0]
        return result + float(columns @ columns), columns

    def _of_folded(self, outputs: int) -> float:
        """What the diagonal gains where two rows are added, each over sqrt 2."""
        surplus = self.branch[-1].out_features - outputs
        if surplus == 0:
            return 0.0
        last = max(place for place, s in enumerate(self.branch) if isinstance(s, Weighted))
        order = np.arange(self.branch[last].out_features)
        for step in self.branch[last + 1 :]:
            order = order[step.permutation()] if isinstance(step, Shuffle) else order
        part = self.branch[: last + 1]
        chosen = rows_to_trace(surplus, 2 * row_cost(part))
        product, norm = self._pairs(part, order[:surplus][chosen], order[outputs:][chosen])
        return surplus * float(np.mean(norm + product)) / 2


def _filled(values: Matrix, rows: Indices, count: int) -> Matrix:
    """One value per row; those that were not traced take the mean."""
    result = np.full(count, np.mean(values))
    result[rows] = values
    return result


def _overlap(fabric: Fabric, one: Branch, two: Branch) -> float:
    """Sum over outputs of the inner product of two branches' normalised path counts."""
    outputs = fabric.out_features
    rows = rows_to_trace(outputs, row_cost(one) + row_cost(two))
    result = 0.0
    for chosen in blocks(rows, max(fabric.in_features, outputs)):
        ones = np.zeros((len(chosen), outputs))
        ones[np.arange(len(chosen)), chosen] = 1
        shares = []
        for branch in (one, two):
            paths = backward(Fabric(fabric.in_features, outputs, (branch,)), ones)
            shares.append(paths / np.sum(paths, axis=1, keepdims=True))
        result += float(np.sum(shares[0] * shares[1]))
    return result * outputs / len(rows)
