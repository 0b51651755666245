"""Graph spectra: how evenly the paths spread, and how hard the graph is to cut.

Reference: Sparse Neural Networks Topologies, arXiv 1706.05683 (accuracy follows both).
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ...fabric import Fabric
from ...quiet import load_scipy
from .layered import LayeredGraph, layered

__all__ = ["algebraic_connectivity", "laplacian_connectivity", "spectral_gap"]

_DENSE = 256
"""Up to so many features a dense decomposition is faster than Lanczos."""

_TOLERANCE = 1e-5
"""Accuracy of a second singular value from Lanczos."""

_RESTARTS = 40
"""Where Lanczos needs more, the graph is long and thin, and a factorisation of it is cheap."""


@lru_cache(maxsize=1024)
def spectral_gap(fabric: Fabric) -> float:
    """1 - sigma2 / sigma1 of the path matrix, rows and columns divided by the roots of their sums.

    1 where every pair of an input and an output has equally many paths, 0 where some features never
    meet others. Above 256 features by Lanczos, to 1e-5.

    Example:
        >>> from sparsify.topology import BlockDiagonal, Monarch
        >>> spectral_gap(Monarch(blocks=4).build(16, 16))
        1.0
        >>> spectral_gap(BlockDiagonal(blocks=4).build(16, 16))
        0.0
    """
    graph = layered(fabric)
    if _has_equal_paths(graph):
        return 1.0
    if not graph.is_connected:
        return 0.0
    wide = max(fabric.in_features, fabric.out_features) > _DENSE
    return 1 - (_second_lanczos(graph) if wide else _second_dense(fabric.paths()))


def _has_equal_paths(graph: LayeredGraph) -> bool:
    """Whether all entries of the path matrix are equal.

    Its products with random whole numbers tell, modulo 2**64, and so without rounding.
    """
    rng = np.random.default_rng(0)
    exact = dataclasses.replace(
        graph,
        reads=graph.reads.astype(np.uint64),
        writes=graph.writes.astype(np.uint64),
        direct=graph.direct.astype(np.uint64),
    )
    products = (
        exact.paths(rng.integers(0, 2**64, graph.inputs, np.uint64)),
        exact.paths_transposed(rng.integers(0, 2**64, graph.outputs, np.uint64)),
    )
    return all(bool((product == product[0]).all()) for product in products)


def _second_dense(paths: npt.NDArray[np.int64]) -> float:
    counts = paths.astype(np.float64)
    rows, columns = counts.sum(1), counts.sum(0)
    values = np.linalg.svd(counts / np.sqrt(np.outer(rows, columns)), compute_uv=False)
    return float(min(1.0, values[1] / values[0])) if values.size > 1 else 0.0


def _second_lanczos(graph: LayeredGraph) -> float:
    """The second singular value; the first is 1, with the roots of the sums as vector."""
    load_scipy()
    from scipy.sparse.linalg import LinearOperator, eigsh

    rows = graph.paths(np.ones(graph.inputs))
    columns = graph.paths_transposed(np.ones(graph.outputs))
    first = np.sqrt(columns / columns.sum())

    def gram(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        vector = vector.reshape(-1)
        vector = vector - first * (first @ vector)
        image = graph.paths(vector / np.sqrt(columns)) / rows
        image = graph.paths_transposed(image) / np.sqrt(columns)
        return np.asarray(image - first * (first @ image))

    start = np.random.default_rng(0).standard_normal(graph.inputs)
    if np.linalg.norm(gram(start)) < _NOTHING * np.linalg.norm(start):
        return 0.0  # path counts that are a product of row and column sums, as wraps make them
    operator = LinearOperator((graph.inputs, graph.inputs), matvec=gram, dtype=np.float64)
    value = eigsh(operator, k=1, which="LA", tol=_TOLERANCE, v0=start, return_eigenvectors=False)[0]
    return math.sqrt(min(1.0, max(0.0, float(value))))


_NOTHING = 1e-12


@lru_cache(maxsize=1024)
def algebraic_connectivity(fabric: Fabric) -> float:
    """The second smallest eigenvalue of the Laplacian of the fabric's graph.

    Nodes are the features at all interfaces, edges the weights. 0 where the graph falls apart.
    Above 256 nodes by Lanczos, to 1e-6 of the largest degree.

    Example:
        >>> from sparsify.topology import LowRank
        >>> round(algebraic_connectivity(LowRank(1).build(3, 5)), 6)  # a star with eight rays
        1.0
    """
    graph = layered(fabric)
    if not graph.is_connected:
        return 0.0
    if graph.nodes > _DENSE:
        return _fiedler(graph)
    one_way = graph.forward(np.eye(graph.nodes))
    return laplacian_connectivity(one_way + one_way.T)


def laplacian_connectivity(adjacency: npt.NDArray[Any]) -> float:
    """The second smallest eigenvalue of the Laplacian of a symmetric (nodes, nodes) matrix.

    Example:
        >>> ring = np.roll(np.eye(4), 1, axis=0)
        >>> round(laplacian_connectivity(ring + ring.T), 6)
        2.0
    """
    laplacian = np.diag(adjacency.sum(1)) - adjacency
    values = np.linalg.eigvalsh(laplacian)
    return max(0.0, float(values[1])) if values.size > 1 else 0.0


def _fiedler(graph: LayeredGraph) -> float:
    load_scipy()
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    degrees = graph.forward(np.ones(graph.nodes)) + graph.backward(np.ones(graph.nodes))
    top = 2 * float(degrees.max())

    def flipped(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        vector = vector.reshape(-1)
        vector = vector - vector.mean()
        image = (top - degrees) * vector + graph.forward(vector) + graph.backward(vector)
        return np.asarray(image - image.mean())

    operator = LinearOperator((graph.nodes, graph.nodes), matvec=flipped, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(graph.nodes)
    try:
        value = eigsh(
            operator,
            k=1,
            which="LA",
            tol=_TOLERANCE / 10,
            ncv=40,
            maxiter=_RESTARTS,
            v0=start,
            return_eigenvectors=False,
        )[0]
    except ArpackNoConvergence:
        return _fiedler_inverted(graph, degrees, start)
    return max(0.0, top - float(value))


def _fiedler_inverted(
    graph: LayeredGraph, degrees: npt.NDArray[np.float64], start: npt.NDArray[np.float64]
) -> float:
    """By Lanczos on the inverse, from a sparse factorisation of the Laplacian."""
    load_scipy()
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import eigsh

    edges = graph.writes.T @ graph.reads + graph.direct
    laplacian = csc_array(diags_array(degrees) - edges - edges.T)
    below = -1e-9 * float(degrees.max())
    values = eigsh(laplacian, k=2, sigma=below, which="LM", v0=start, return_eigenvectors=False)
    return max(0.0, float(values.max()))
