"""What the native core must compute: dense float64 matrices and closed forms, numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.support.native import BLOCKS, PERMUTATION, TRANSPOSE, Floats, Integers, steps_of

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def activated(name: str, y: Floats) -> Floats:
    """The activation of each number."""
    if name == "relu":
        return np.maximum(y, 0)
    if name == "gelu":
        return 0.5 * y * _erfc(-y / math.sqrt(2))
    if name == "gelu_tanh":
        return 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    if name == "silu":
        return y * np.exp(-np.logaddexp(0, -y))
    return y


def places(step: Sequence[int], indices: Integers) -> tuple[Integers, Integers]:
    """Row and column of each entry of a step's (out, in) matrix, in the shape of its weight."""
    kind, p, q, r, s = step
    if kind == BLOCKS:
        a, d, b, c = np.ogrid[:p, :s, :q, :r]
        return np.broadcast_arrays((a * q + b) * s + d, (a * r + c) * s + d)
    if kind == TRANSPOSE:
        return np.arange(p), np.arange(p).reshape(p // q, q).T.reshape(p)
    if kind == PERMUTATION:
        return np.arange(p), indices[q : q + p]
    return np.broadcast_arrays(np.arange(q)[:, None], indices[s : s + q * r].reshape(q, r))


def widths(step: Sequence[int]) -> tuple[int, int]:
    """Inputs and outputs of a step."""
    kind, p, q, r, s = step
    if kind == BLOCKS:
        return p * r * s, p * q * s
    return (p, p) if kind in (TRANSPOSE, PERMUTATION) else (p, q)


@dataclass
class Results:
    """What a call gives back."""

    y: Floats
    grad_x: Floats
    grad_factors: list[Floats]


def computed(
    description: Integers,
    indices: Integers,
    x: Floats,
    factors: Sequence[Floats],
    grad: Floats,
) -> Results:
    """Outputs, and gradients for the gradient of the outputs, by one dense matrix per step."""
    inputs, outputs = int(description[0]), int(description[1])
    results = Results(np.zeros((len(x), outputs)), np.zeros_like(x), [])
    rest = iter(factors)
    for branch in steps_of(description):
        wide = np.arange(widths(branch[0])[0]) % inputs
        folded = np.arange(widths(branch[-1])[1]) % outputs
        features, matrices = [x[:, wide]], []
        for step in branch:
            rows, columns = places(step, indices)
            matrix = np.zeros(widths(step)[::-1])
            has_weights = step[0] not in (TRANSPOSE, PERMUTATION)
            np.add.at(matrix, (rows, columns), next(rest) if has_weights else 1.0)
            matrices.append((matrix, rows, columns, has_weights))
            features.append(features[-1] @ matrix.T)
        np.add.at(results.y.T, folded, features[-1].T)
        back, gradients = grad[:, folded], []
        for before, (matrix, rows, columns, has_weights) in zip(
            features[-2::-1], matrices[::-1], strict=True
        ):
            if has_weights:
                gradients.append((back.T @ before)[rows, columns])
            back = back @ matrix
        np.add.at(results.grad_x.T, wide, back.T)
        results.grad_factors += gradients[::-1]
    return results


def typical(
    description: Integers,
    indices: Integers,
    x: Floats,
    factors: Sequence[Floats],
    grad: Floats,
) -> Results:
    """The size of the results if every product had a random sign.

    Rounding errors are of this size, and no sum of it cancels, as an output that happens to be
    almost nothing does: relative to that, every float has a large error.
    """
    squares = computed(description, indices, x**2, [f**2 for f in factors], grad**2)
    roots = [np.sqrt(gradient) for gradient in squares.grad_factors]
    return Results(np.sqrt(squares.y), np.sqrt(squares.grad_x), roots)


def error(got: Floats, want: Floats, size: Floats) -> float:
    """The norm of the error over that of the wanted values or of the typical ones."""
    scale = max(np.linalg.norm(want), np.linalg.norm(size), np.finfo(float).tiny)
    return float(np.linalg.norm(got - want) / scale)
