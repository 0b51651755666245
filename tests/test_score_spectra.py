"""Spectra and cuts of fabrics against networkx, dense SVDs and ranks of random weights."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest

from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.select.score.cut import cut_bandwidth
from sparsify.select.score.layered import layered
from sparsify.select.score.spectra import (
    algebraic_connectivity,
    laplacian_connectivity,
    spectral_gap,
)
from sparsify.topology import TOPOLOGIES, Clos, Monarch, build
from tests.support.fabrics import dense_matrix, random_fabrics, random_factors

FAMILIES = sorted(TOPOLOGIES)
N = 64

SHUFFLED = Fabric(
    12,
    10,
    (
        (
            Shuffle(12, seed=1),
            Stage(3, 4, 4, 1),
            Shuffle(12, seed=2),
            GraphStage("random", 12, 12, 3),
        ),
        (Stage(4, 3, 3, 1), Shuffle(12, stride=3), Stage(2, 5, 6, 1), Shuffle(10, seed=5)),
    ),
)


def some(family: str, count: int = 30) -> list[Fabric]:
    return [f for f in random_fabrics(family, count, seed=4) if max(_widths(f)) <= 128]


def _widths(fabric: Fabric) -> list[int]:
    return [width for step in fabric.stages for width in (step.in_features, step.out_features)]


def dense_graph(fabric: Fabric) -> nx.MultiGraph:
    """Built from the masks alone: a hidden feature per row of each mask, shuffles included."""
    graph = nx.MultiGraph()
    for number, masks in enumerate(fabric.mask()):
        names = [("in", i) for i in range(fabric.in_features)]
        merged: dict[object, object] = {}
        for place, (mask, step) in enumerate(zip(masks, fabric.branches[number], strict=True)):
            last = place == len(masks) - 1
            after = [("out", i) if last else (number, place, i) for i in range(len(mask))]
            for row, column in np.argwhere(mask):
                if isinstance(step, Shuffle):
                    merged[names[column] if last else after[row]] = (
                        after[row] if last else names[column]
                    )
                for _ in range(0 if isinstance(step, Shuffle) else mask[row, column]):
                    graph.add_edge(names[column], after[row])
            names = after
        for old in list(merged):
            new = old
            while new in merged:
                new = merged[new]
            if old in graph:
                nx.relabel_nodes(graph, {old: new}, copy=False) if new not in graph else _join(
                    graph, new, old
                )
    return graph


def _join(graph: nx.MultiGraph, kept: object, gone: object) -> None:
    graph.add_edges_from((kept, other) for _, other in list(graph.edges(gone)))
    graph.remove_node(gone)


@pytest.mark.parametrize("family", FAMILIES)
def test_algebraic_connectivity_is_that_of_the_graph(family: str) -> None:
    for fabric in some(family, 20):
        graph = dense_graph(fabric)
        expected = np.linalg.eigvalsh(nx.laplacian_matrix(graph).toarray().astype(float))[1]
        assert algebraic_connectivity(fabric) == pytest.approx(expected, abs=2e-5), str(fabric)
        assert (algebraic_connectivity(fabric) == 0) == (not nx.is_connected(graph)), str(fabric)


def test_shuffles_only_rename() -> None:
    expected = np.linalg.eigvalsh(
        nx.laplacian_matrix(dense_graph(SHUFFLED)).toarray().astype(float)
    )
    assert algebraic_connectivity(SHUFFLED) == pytest.approx(expected[1], abs=1e-9)
    assert np.allclose(layered(SHUFFLED).paths(np.eye(12)), SHUFFLED.paths())
    assert np.allclose(layered(SHUFFLED).paths_transposed(np.eye(10)), SHUFFLED.paths().T)


def test_laplacians_with_known_spectra() -> None:
    ring = np.roll(np.eye(16), 1, 0) + np.roll(np.eye(16), -1, 0)
    small = np.roll(np.eye(8), 1, 0) + np.roll(np.eye(8), -1, 0)
    torus = np.kron(small, np.eye(8)) + np.kron(np.eye(8), small)
    cube = nx.to_numpy_array(nx.hypercube_graph(5))
    assert laplacian_connectivity(ring) == pytest.approx(2 - 2 * math.cos(math.pi / 8))
    assert laplacian_connectivity(torus) == pytest.approx(2 - math.sqrt(2))
    assert laplacian_connectivity(cube) == pytest.approx(2)
    assert laplacian_connectivity(nx.to_numpy_array(nx.petersen_graph())) == pytest.approx(2)
    assert algebraic_connectivity(build("low_rank", 5, 3, {"rank": 1})) > 0
    assert algebraic_connectivity(Fabric(5, 3, ((Stage(1, 3, 5, 1),),))) == pytest.approx(3)


@pytest.mark.parametrize("stages", [1, 2])
def test_long_thin_graphs_converge(stages: int) -> None:
    """A torus of one dimension: the smallest eigenvalues are far below the largest."""
    nodes = 1500
    ring = build("torus", nodes, nodes, {"dims": (nodes,), "stages": stages})
    wave = (1 + 2 * math.cos(2 * math.pi / nodes)) / 3  # of one stage, with self-loops
    assert spectral_gap(ring) == pytest.approx(1 - wave**stages, abs=1e-7)
    blocks = 3 * np.diag([1.0, *[2.0] * (stages - 1), 1.0])
    for layer in range(stages):
        blocks[layer, layer + 1] = blocks[layer + 1, layer] = -3 * wave
    expected = np.linalg.eigvalsh(blocks)[0]
    assert algebraic_connectivity(ring) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_gap_is_that_of_the_dense_path_matrix(family: str) -> None:
    for fabric in some(family):
        paths = fabric.paths().astype(float)
        normal = paths / np.sqrt(np.outer(paths.sum(1), paths.sum(0)))
        values = np.linalg.svd(normal, compute_uv=False)
        expected = 1 - values[1] / values[0] if values.size > 1 else 1.0
        assert spectral_gap(fabric) == pytest.approx(expected, abs=1e-7), str(fabric)
        if paths.min() == paths.max():
            assert spectral_gap(fabric) == 1
        if algebraic_connectivity(fabric) == 0:
            assert spectral_gap(fabric) == 0


LARGE = [
    Fabric(600, 600, (tuple(GraphStage("random", 600, 600, 6, seed=s) for s in range(2)),)),
    Fabric(640, 576, ((Stage(32, 18, 20, 1), Shuffle(576, seed=3), Stage(24, 24, 24, 1)),)),
    build("monarch", 301, 313, {"blocks": 9}),
]


@pytest.mark.parametrize("fabric", LARGE, ids=str)
def test_gap_of_large_fabrics(fabric: Fabric) -> None:
    paths = fabric.paths().astype(float)
    normal = paths / np.sqrt(np.outer(paths.sum(1), paths.sum(0)))
    expected = 1 - math.sqrt(np.linalg.eigvalsh(normal @ normal.T)[-2])
    assert spectral_gap(fabric) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("fabric", LARGE, ids=str)
def test_algebraic_connectivity_of_large_fabrics(fabric: Fabric) -> None:
    """Against a dense solve of the Laplacian put together from the masks."""
    first, *middle, last = fabric.mask()[0]
    for mask in middle:
        first = mask @ first  # a shuffle
    inputs, hidden = first.shape[1], first.shape[0]
    nodes = inputs + hidden + last.shape[0]
    adjacency = np.zeros((nodes, nodes))
    adjacency[inputs : inputs + hidden, :inputs] = first
    adjacency[inputs + hidden :, inputs : inputs + hidden] = last
    expected = laplacian_connectivity(adjacency + adjacency.T)
    assert algebraic_connectivity(fabric) == pytest.approx(expected, abs=1e-4)


def test_cuts_that_are_known() -> None:
    known = {
        ("block_diagonal", 8): 0,
        ("low_rank", 8): 0.25,
        ("monarch", 8): 0.5,
        ("butterfly", 2): 0.5,
    }
    options = {"block_diagonal": "blocks", "low_rank": "rank", "monarch": "blocks"}
    for (family, value), bandwidth in known.items():
        fabric = build(family, N, N, {options.get(family, "radix"): value})
        assert cut_bandwidth(fabric) == bandwidth, family
    assert cut_bandwidth(build("clos", N, N, {"ingress": 8, "middle": 8})) == 1
    assert cut_bandwidth(build("butterfly", 4096, 4096, {"radix": 2})) == 0.5


def _halves(width: int) -> list[list[int]]:
    features = list(range(width))
    return [features[: width // 2], features[-(width // 2) :], features[::2], features[1::2]]


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_is_the_least_rank_of_random_weights(family: str) -> None:
    if family not in ("block_diagonal", "low_rank", "monarch", "clos", "butterfly"):
        fabrics = [f for f in some(family, 20) if all(isinstance(s, Stage) for s in f.stages)]
    else:
        fabrics = some(family)
    for fabric in fabrics:
        if min(fabric.in_features, fabric.out_features) < 2:
            assert cut_bandwidth(fabric) == 1
            continue
        matrix = dense_matrix(fabric, random_factors(fabric))
        ranks = [
            np.linalg.matrix_rank(matrix[np.ix_(to, of)], tol=1e-9) / min(len(to), len(of))
            for to, of in itertools.product(
                _halves(fabric.out_features), _halves(fabric.in_features)
            )
        ]
        assert cut_bandwidth(fabric) == pytest.approx(min(ranks)), str(fabric)


def test_cut_of_graphs_is_the_least_rank_of_random_weights() -> None:
    rng = np.random.default_rng(0)
    for degree, seed in itertools.product((1, 2, 4), range(4)):
        stages = tuple(GraphStage("random", 32, 32, degree, seed=seed + s) for s in (0, 9))
        matrix = np.eye(32)
        for stage in stages:
            matrix = (stage.mask() * rng.standard_normal((32, 32))) @ matrix
        ranks = [
            np.linalg.matrix_rank(matrix[np.ix_(to, of)], tol=1e-9) / 16
            for to, of in itertools.product(_halves(32), _halves(32))
        ]
        assert cut_bandwidth(Fabric(32, 32, (stages,))) == min(ranks)


@pytest.mark.parametrize(
    "fabric", [Clos(7, 3).build(61, 509), Monarch(2).build(3, 1021), Monarch(32).build(1021, 1023)]
)
def test_wraps_that_leave_nothing_beside_the_first_vector(fabric: Fabric) -> None:
    counts = fabric.paths().astype(np.float64)
    scaled = counts / np.sqrt(np.outer(counts.sum(1), counts.sum(0)))
    values = np.linalg.svd(scaled, compute_uv=False)
    assert spectral_gap(fabric) == pytest.approx(1 - values[1], abs=1e-4)
