"""Generic rank: the rank of the fabric's matrix for almost all weights."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ...fabric import Fabric, Shuffle, Stage, Weighted
from ...quiet import load_scipy

__all__ = ["generic_rank"]

Indices = npt.NDArray[np.int64]


@lru_cache(maxsize=4096)
def generic_rank(fabric: Fabric) -> float:
    """Most paths from inputs to outputs without a common feature: the rank for almost all weights.

    Every stage is biregular, so where nothing wraps or folds a flow that is spread evenly is a
    largest one, and the narrowest place decides (Menger). Else it is a maximum flow in which each
    feature passes one unit; the features of a complete block meet in one vertex, so that edges
    count features, not weights.

    Example:
        >>> from sparsify.topology import Monarch
        >>> generic_rank(Monarch(blocks_in=8, blocks_out=4).build(64, 64))
        32.0

    Reference:
        Lindstrom 1973, Gessel and Viennot 1985 (minors as disjoint paths).
    """
    if fabric.is_exact:
        return float(fabric.width)
    return float(_maximum_flow(*_edges(fabric)))


def _edges(fabric: Fabric) -> tuple[Indices, Indices]:
    """Tails and heads of edges of limit one; vertex 0 is the source, 1 the sink."""
    inputs, outputs = fabric.in_features, fabric.out_features
    entry, leave = 2 + np.arange(inputs), 2 + inputs + np.arange(outputs)
    pairs = [(np.zeros_like(entry), entry), (leave, np.ones_like(leave))]
    vertices = 2 + inputs + outputs
    for branch in fabric.branches:
        at = entry[np.arange(branch[0].in_features) % inputs]
        for step in branch:
            if isinstance(step, Shuffle):
                at = at[step.permutation()]
                continue
            reads, writes, links = _vertices(step)
            pairs += [
                (at, reads + vertices),
                *((tail + vertices, h + vertices) for tail, h in links),
            ]
            at = writes + vertices
            vertices += int(max(reads.max(), writes.max())) + 1
        pairs.append((at, leave[np.arange(len(at)) % outputs]))
    return np.concatenate([tail for tail, _ in pairs]), np.concatenate([head for _, head in pairs])


def _vertices(step: Weighted) -> tuple[Indices, Indices, list[tuple[Indices, Indices]]]:
    """The vertex of each input and of each output of a stage, and the edges between them."""
    if isinstance(step, Stage):
        return _blocks(step.a, step.c, step.d), _blocks(step.a, step.b, step.d), []
    reads = np.arange(step.in_features)
    writes = step.in_features + np.arange(step.out_features)
    return reads, writes, [(step.neighbours().reshape(-1), np.repeat(writes, step.degree))]


def _blocks(a: int, c: int, d: int) -> Indices:
    """The number of the complete block of each feature."""
    index = np.arange(a * c * d)
    return index // (c * d) * d + index % d


def _maximum_flow(tails: Indices, heads: Indices) -> int:
    load_scipy()
    from scipy.sparse import csr_array, csr_matrix
    from scipy.sparse.csgraph import maximum_flow

    size = int(heads.max()) + 1
    limits = csr_array((np.ones(len(tails), np.int32), (tails, heads)), (size, size))
    return int(maximum_flow(csr_matrix(limits), 0, 1).flow_value)
