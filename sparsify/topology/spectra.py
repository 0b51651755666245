"""Second singular values of graphs, normalised so that the first is 1."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..steps import GraphStage
from ..steps.scramble import permutations

__all__ = ["additive_sigma2", "ramanujan_bound", "second_singular_value", "xor_sigma2"]

Indices = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

_EXACT_UP_TO = 512
_STEPS = 64
_CHECK_EVERY = 8


def ramanujan_bound(degree: int, fan_out: float) -> float:
    """What no infinite family of biregular graphs stays below: 2 * sqrt(d - 1) / d where square.

    Args:
        degree: inputs of an output.
        fan_out: outputs of an input.

    Example:
        >>> round(ramanujan_bound(6, 6), 3)
        0.745

    Reference:
        Feng and Li 1996, Spectra of hypergraphs and applications (biregular Alon-Boppana).
    """
    return (math.sqrt(degree - 1) + math.sqrt(fan_out - 1)) / math.sqrt(degree * fan_out)


def additive_sigma2(offsets: Indices, nodes: int) -> Reals:
    """Of graphs j -> j + offsets modulo nodes, (graphs, degree) -> (graphs,): by Fourier transform.

    Example:
        >>> additive_sigma2(np.array([[0, 1, 2]]), 3).round(9).tolist()
        [0.0]
    """
    spectra = np.fft.rfft(_indicators(offsets, nodes), axis=1)
    return _largest_but_first(spectra.real**2 + spectra.imag**2, offsets)


def xor_sigma2(words: Indices, nodes: int) -> Reals:
    """Of graphs j -> j xor words, (graphs, degree) -> (graphs,): by Walsh-Hadamard transform.

    Example:
        >>> xor_sigma2(np.array([[1, 2, 4]]), 8).round(9).tolist()
        [1.0]
    """
    values = _indicators(words, nodes)
    for bit in range(nodes.bit_length() - 1):
        pairs = values.reshape(len(words), -1, 2, 2**bit)
        low, high = pairs[:, :, :1], pairs[:, :, 1:]
        values = np.concatenate((low + high, low - high), axis=2).reshape(len(words), nodes)
    return _largest_but_first(values**2, words)


def _indicators(places: Indices, nodes: int) -> Reals:
    values = np.zeros((len(places), nodes))
    np.put_along_axis(values, places, 1.0, axis=1)
    return values


def _largest_but_first(squares: Reals, offsets: Indices) -> Reals:
    if squares.shape[1] < 2:
        return np.zeros(len(squares))
    # Rounded, so that equal graphs are equal on every machine.
    largest: Reals = np.round(np.sqrt(squares[:, 1:].max(1)) / offsets.shape[1], 9)
    return largest


def second_singular_value(stage: GraphStage) -> float:
    """Of the matrix of a graph over the root of degree times fan-out.

    Up to 512 features by a full decomposition, above by Lanczos steps beside the first singular
    vectors, which are constant.

    Example:
        >>> round(second_singular_value(GraphStage("plane", 25, 25, 5)), 6)
        0.447214
    """
    fan_out = stage.out_features * stage.degree // stage.in_features
    if max(stage.in_features, stage.out_features) <= _EXACT_UP_TO:
        values = np.linalg.svd(stage.mask().astype(np.float64), compute_uv=False)
        second = float(values[1]) if len(values) > 1 else 0.0
        return second / math.sqrt(stage.degree * fan_out)
    return math.sqrt(_largest_ritz_value(stage, fan_out))


def _largest_ritz_value(stage: GraphStage, fan_out: int) -> float:
    """Of the Gram matrix on the vectors without a constant part (Lanczos, orthogonalised)."""
    gram = _gram(stage, fan_out)
    vector = permutations(1, stage.in_features, 0)[0] - (stage.in_features - 1) / 2
    basis = [vector / np.linalg.norm(vector)]
    diagonal: list[float] = []
    beside: list[float] = []
    largest = 0.0
    for step in range(1, min(_STEPS, stage.in_features - 1) + 1):
        moved = gram(basis[-1]) / (stage.degree * fan_out)
        diagonal.append(float(moved @ basis[-1]))
        moved -= moved.mean()
        known = np.stack(basis)
        for _ in range(2):
            moved -= known.T @ (known @ moved)
        beside.append(float(np.linalg.norm(moved)))
        if step % _CHECK_EVERY == 0 or beside[-1] < 1e-9:
            matrix = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
            before, largest = largest, float(np.linalg.eigvalsh(matrix)[-1])
            if beside[-1] < 1e-9 or largest - before < 1e-4 * largest:
                break
        basis.append(moved / beside[-1])
    return largest


def _gram(stage: GraphStage, fan_out: int) -> Callable[[Reals], Reals]:
    """The product with mask.T @ mask; over the edges, or dense where every eighth is one."""
    reads = stage.neighbours()
    if 8 * stage.degree >= stage.in_features:
        mask = np.zeros((stage.out_features, stage.in_features), np.float32)
        np.put_along_axis(mask, reads, 1.0, axis=1)
        return lambda x: ((mask @ x.astype(np.float32)) @ mask).astype(np.float64)
    readers = np.argsort(reads, axis=None, kind="stable").reshape(-1, fan_out) // stage.degree
    return lambda x: x[reads].sum(1)[readers].sum(1)
