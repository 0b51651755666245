"""The generators of graphs: structure, spectra, closed forms, and that they never change."""

from __future__ import annotations

import itertools
import math
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
import pytest

from sparsify.errors import ConfigError
from sparsify.steps import GRAPHS, GraphStage
from sparsify.steps.graphs import AdditiveGraph, OffsetGraph, XorGraph
from sparsify.steps.graphs.numbers import element_of_order
from sparsify.topology.search import DRAWS, best_lift, best_offsets
from sparsify.topology.spectra import (
    additive_sigma2,
    ramanujan_bound,
    second_singular_value,
    xor_sigma2,
)

Matrix = npt.NDArray[np.float64]

# Per generator: (nodes, links, options) that exist.
SETTINGS: dict[str, list[tuple[int, int, tuple[int, ...]]]] = {
    "circulant": [(1, 1, ()), (2, 1, ()), (13, 5, ()), (24, 24, ()), (60, 7, ())],
    "hypercube": [(2, 1, ()), (8, 3, ()), (64, 6, ())],
    "paley": [(2, 1, ()), (7, 3, ()), (13, 6, ()), (13, 12, ()), (61, 10, ()), (61, 1, ())],
    "plane": [(4, 2, ()), (9, 3, ()), (25, 5, ()), (49, 7, ())],
    "radix": [(1, 1, (1, 1)), (12, 3, (3, 4)), (13, 5, (5, 4)), (16, 2, (2, 8)), (9, 9, (9, 2))],
    "random": [(1, 1, ()), (13, 1, ()), (24, 4, ()), (24, 24, ()), (60, 6, ())],
    "torus": [
        (1, 1, (1,)),
        (2, 2, (2,)),
        (3, 3, (3,)),
        (12, 4, (2, 6)),
        (24, 6, (2, 3, 4)),
        (64, 5, (8, 8)),
    ],
    "xor": [(1, 1, ()), (2, 2, ()), (16, 5, ()), (64, 64, ())],
}

CASES = [(graph, *setting) for graph, settings in SETTINGS.items() for setting in settings]


def stage_of(
    graph: str, nodes: int, links: int, options: tuple[int, ...], wider: tuple[int, int] = (1, 1)
) -> GraphStage:
    """A stage with several features per node on one side."""
    per_input, per_output = wider
    return GraphStage(graph, nodes * per_input, nodes * per_output, links * per_input, options)


def adjacency(stage: GraphStage) -> Matrix:
    """The 0/1 matrix, edge by edge."""
    matrix = np.zeros((stage.out_features, stage.in_features))
    for row, reads in enumerate(stage.neighbours().tolist()):
        for column in reads:
            matrix[row, column] += 1
    return matrix


def test_every_generator_is_tested() -> None:
    assert set(SETTINGS) == set(GRAPHS)
    assert list(GRAPHS) == sorted(GRAPHS)


@pytest.mark.parametrize("wider", [(1, 1), (3, 1), (1, 4)], ids=str)
@pytest.mark.parametrize(("graph", "nodes", "links", "options"), CASES)
def test_distinct_neighbours_and_equal_degrees(
    graph: str, nodes: int, links: int, options: tuple[int, ...], wider: tuple[int, int]
) -> None:
    stage = stage_of(graph, nodes, links, options, wider)
    assert stage.neighbours().dtype == np.int64
    assert stage.neighbours().shape == (stage.out_features, stage.degree)
    matrix = adjacency(stage)
    assert matrix.max() == 1, "a neighbour is there twice"
    assert (matrix.sum(1) == stage.degree).all()
    assert (matrix.sum(0) == stage.out_features * stage.degree / stage.in_features).all()
    assert (matrix == stage.mask()).all()
    assert GraphStage.from_json(stage.to_json()) == stage


@pytest.mark.parametrize("graph", [name for name in GRAPHS if name != "random"])
def test_features_beyond_the_nodes_stand_at_the_same_nodes(graph: str) -> None:
    nodes, links, options = SETTINGS[graph][-1]
    square = adjacency(stage_of(graph, nodes, links, options))
    wide = adjacency(stage_of(graph, nodes, links, options, (3, 1)))
    tall = adjacency(stage_of(graph, nodes, links, options, (1, 2)))
    assert (wide == np.tile(square, (1, 3))).all()
    assert (tall == np.tile(square, (2, 1))).all()


@pytest.mark.parametrize(
    ("graph", "nodes", "links", "options"),
    [case for case in CASES if isinstance(GRAPHS[case[0]], OffsetGraph)],
)
def test_neighbours_follow_from_the_offsets(
    graph: str, nodes: int, links: int, options: tuple[int, ...]
) -> None:
    generator = GRAPHS[graph]
    assert isinstance(generator, AdditiveGraph) != isinstance(generator, XorGraph)
    assert isinstance(generator, OffsetGraph)
    offsets = generator.offsets(nodes, links, options, 5)
    assert offsets.dtype == np.int64
    assert offsets.shape == (links,)
    reads = GraphStage(graph, nodes, nodes, links, options, 5).neighbours()
    for node, k in itertools.product(range(nodes), range(links)):
        offset = int(offsets[k])
        moved = node ^ offset if isinstance(generator, XorGraph) else (node + offset) % nodes
        assert reads[node, k] == moved


# Written down once. Files hold names and numbers only, so that these must never change.
PINNED: list[tuple[str, int, int, tuple[int, ...], int, int, list[int]]] = [
    ("circulant", 1000, 5, (), 0, 0, [148, 311, 719, 111, 877]),
    ("circulant", 64, 4, (), 7, 63, [26, 63, 20, 13]),
    ("hypercube", 16, 4, (), 0, 5, [4, 7, 1, 13]),
    ("paley", 61, 5, (), 0, 3, [4, 12, 23, 0, 37]),
    ("paley", 13, 6, (), 0, 0, [1, 4, 3, 12, 9, 10]),
    ("paley", 4093, 3, (), 0, 4000, [4001, 809, 3097]),
    ("plane", 25, 5, (), 0, 13, [3, 5, 12, 19, 21]),
    ("radix", 60, 4, (4, 5), 0, 57, [57, 2, 7, 12]),
    ("random", 64, 4, (), 1, 0, [9, 26, 45, 60]),
    ("random", 1000, 8, (), 3, 999, [115, 149, 254, 449, 523, 643, 858, 994]),
    ("torus", 24, 6, (2, 3, 4), 0, 0, [0, 12, 4, 8, 1, 3]),
    ("torus", 24, 6, (2, 3, 4), 0, 23, [23, 11, 15, 19, 20, 22]),
    ("xor", 256, 6, (), 0, 1, [149, 110, 40, 151, 189, 15]),
    ("xor", 1024, 4, (), 12, 1000, [842, 575, 947, 690]),
]


@pytest.mark.parametrize(
    ("graph", "nodes", "degree", "options", "seed", "row", "expected"),
    PINNED,
    ids=[str(pinned[:5]) for pinned in PINNED],
)
def test_files_never_change_their_meaning(
    graph: str,
    nodes: int,
    degree: int,
    options: tuple[int, ...],
    seed: int,
    row: int,
    expected: list[int],
) -> None:
    stage = GraphStage(graph, nodes, nodes, degree, options, seed)
    assert stage.neighbours()[row].tolist() == expected


# --- refusals -------------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("circulant", {"degree": 13}, "the degree 1 to 12; got 13"),
    ("circulant", {"options": (1,)}, "takes no options; got (1,)"),
    ("circulant", {"in_features": 24, "degree": 3}, "the degree 2, 4, ... 24; got 3"),
    ("circulant", {"in_features": 24, "degree": 26}, "the degree 2, 4, ... 24; got 26"),
    ("circulant", {"in_features": 18}, "one width to be a multiple of the other; got 18 and 12"),
    ("radix", {}, "the options (radix, step), each 1 or more; got ()"),
    ("radix", {"options": (0, 1)}, "each 1 or more; got (0, 1)"),
    ("radix", {"options": (4, 4), "degree": 4}, "a radix of 1 to 3; got 4"),
    ("radix", {"options": (3, 4), "degree": 4}, "the degree 3; got 4"),
    ("paley", {}, "a prime number of nodes (the narrower width); got 12"),
    ("paley", {"in_features": 13, "out_features": 13, "degree": 5}, "a divisor of 12; got 5"),
    ("paley", {"in_features": 13, "out_features": 13, "degree": 14}, "1 to 13; got 14"),
    ("paley", {"in_features": 1, "out_features": 1, "degree": 1}, "prime number of nodes"),
    ("xor", {}, "a power of two of nodes (the narrower width), 1 or more; got 12"),
    ("xor", {"in_features": 8, "out_features": 8, "degree": 9}, "1 to 8; got 9"),
    ("hypercube", {}, "a power of two of nodes (the narrower width), 2 or more; got 12"),
    ("hypercube", {"in_features": 8, "out_features": 8, "degree": 4}, "the degree 3; got 4"),
    ("hypercube", {"in_features": 1, "out_features": 1, "degree": 1}, "2 or more; got 1"),
    ("torus", {}, "its sides, each 1 or more, whose product is its 12 nodes; got ()"),
    ("torus", {"options": (3, 5)}, "12 nodes; got (3, 5)"),
    ("torus", {"options": (0, 12)}, "got (0, 12)"),
    ("torus", {"options": (3, 4)}, "the degree 5; got 3"),
    ("plane", {}, "the square of a prime (4, 9, 25, 49, 121, ...)"),
    ("plane", {"in_features": 16, "out_features": 16, "degree": 4}, "narrower width); got 16"),
    ("plane", {"in_features": 9, "out_features": 9, "degree": 4}, "the degree 3; got 4"),
    ("random", {"degree": 5}, "got degree 5"),
    ("random", {"degree": 24}, "got degree 24"),
    ("random", {"out_features": 10}, "divides 10 outputs; got degree 3"),
    ("random", {"options": (1,)}, "takes no options"),
    ("randm", {}, "There is no graph 'randm'; there are circulant, "),
]


@pytest.mark.parametrize(("graph", "change", "fragment"), BAD, ids=[f"{g}{c}" for g, c, _ in BAD])
def test_impossible_numbers_are_refused(graph: str, change: dict[str, Any], fragment: str) -> None:
    numbers = {"in_features": 12, "out_features": 12, "degree": 3, **change}
    with pytest.raises(ConfigError) as caught:
        GraphStage(graph, **numbers)
    assert fragment in str(caught.value)


# --- spectra: THEORY.md 1d and 6.8 ------------------------------------------------------------


def graph_of(stage: GraphStage) -> Any:
    """The undirected graph among the nodes, loops left out."""
    matrix = adjacency(stage)
    np.fill_diagonal(matrix, 0)
    assert (matrix == matrix.T).all()
    return nx.from_numpy_array(matrix)


CONNECTIVITY: list[tuple[GraphStage, Any, float]] = [
    *[
        (GraphStage("hypercube", 2**d, 2**d, d), nx.hypercube_graph(d), 2.0)
        for d in (1, 2, 3, 4, 6)
    ],
    (
        GraphStage("torus", 64, 64, 5, (8, 8)),
        nx.grid_graph((8, 8), periodic=True),
        2 - math.sqrt(2),
    ),
    (GraphStage("torus", 16, 16, 3, (16,)), nx.cycle_graph(16), 2 - 2 * math.cos(math.pi / 8)),
    (GraphStage("torus", 30, 30, 6, (2, 3, 5)), None, 2 - 2 * math.cos(2 * math.pi / 5)),
    # The Paley graph of 13 is strongly regular: Laplacian eigenvalues (13 +- sqrt 13) / 2.
    (GraphStage("paley", 13, 13, 6), None, (13 - math.sqrt(13)) / 2),
]


@pytest.mark.parametrize(
    ("stage", "known", "expected"), CONNECTIVITY, ids=[str(case[0]) for case in CONNECTIVITY]
)
def test_algebraic_connectivity(stage: GraphStage, known: Any, expected: float) -> None:
    graph = graph_of(stage)
    spectrum = np.sort(nx.laplacian_spectrum(graph))
    assert spectrum[0] == pytest.approx(0, abs=1e-9)
    assert spectrum[1] == pytest.approx(expected, abs=1e-9)
    if known is not None:
        assert nx.is_isomorphic(graph, known)


def sigma2(stage: GraphStage) -> float:
    """The second singular value, from scratch."""
    values = np.linalg.svd(adjacency(stage), compute_uv=False)
    assert values[0] == pytest.approx(
        stage.degree * math.sqrt(stage.out_features / stage.in_features)
    )
    return float(values[1] / values[0])


def gauss(prime: int) -> float:
    """Of the quadratic residues: (sqrt p + 1) / (p - 1), or sqrt(p + 1) / (p - 1) for 4k + 3."""
    root = math.sqrt(prime) + 1 if prime % 4 == 1 else math.sqrt(prime + 1)
    return root / (prime - 1)


CLOSED: list[tuple[GraphStage, float]] = [
    *[(GraphStage("plane", q * q, q * q, q), math.sqrt(q) / q) for q in (2, 3, 5, 7, 11)],
    (GraphStage("plane", 75, 25, 15), math.sqrt(5) / 5),
    *[(GraphStage("paley", p, p, (p - 1) // 2), gauss(p)) for p in (5, 7, 13, 61, 67)],
    *[(GraphStage("paley", p, p, p - 1), 1 / (p - 1)) for p in (3, 13)],
    (GraphStage("circulant", 24, 24, 24), 0.0),
    (GraphStage("xor", 16, 64, 16), 0.0),
    (GraphStage("hypercube", 16, 16, 4), 1.0),  # bipartite: parity never changes
    (GraphStage("torus", 15, 15, 3, (15,)), (1 + 2 * math.cos(2 * math.pi / 15)) / 3),
    (
        GraphStage("radix", 64, 64, 8, (8, 1)),
        abs(math.sin(math.pi / 8) / math.sin(math.pi / 64)) / 8,
    ),
    (GraphStage("radix", 64, 64, 8, (8, 8)), 1.0),
]


@pytest.mark.parametrize(("stage", "expected"), CLOSED, ids=[str(case[0]) for case in CLOSED])
def test_second_singular_value_in_closed_form(stage: GraphStage, expected: float) -> None:
    assert sigma2(stage) == pytest.approx(expected, abs=1e-7)
    assert second_singular_value(stage) == pytest.approx(expected, abs=1e-7)


def test_random_graphs_are_nearly_ramanujan() -> None:
    for degree, measured, bound in ((3, 0.938, 0.943), (6, 0.733, 0.745), (12, 0.537, 0.553)):
        assert ramanujan_bound(degree, degree) == pytest.approx(bound, abs=6e-4)
        size = math.ceil(256 / degree) * degree
        draws = [sigma2(GraphStage("random", size, size, degree, seed=s)) for s in range(8)]
        assert np.median(draws) == pytest.approx(measured, abs=0.012)


@pytest.mark.parametrize(
    "stage",
    [
        GraphStage("random", 600, 600, 3, seed=1),
        GraphStage("random", 600, 900, 12, seed=2),
        GraphStage("random", 900, 300, 150, seed=3),  # dense enough for the matrix itself
        GraphStage("torus", 800, 400, 10, (20, 20)),
        GraphStage("plane", 529, 529, 23),
        GraphStage("circulant", 600, 600, 600),
    ],
    ids=str,
)
def test_lanczos_agrees_with_a_full_decomposition(stage: GraphStage) -> None:
    assert max(stage.in_features, stage.out_features) > 512
    assert second_singular_value(stage) == pytest.approx(sigma2(stage), rel=1e-4, abs=1e-6)


def test_transforms_of_the_offsets_are_the_spectra() -> None:
    for graph, nodes, transform in (
        ("circulant", 45, additive_sigma2),
        ("xor", 64, xor_sigma2),
    ):
        for degree, seed in ((1, 0), (5, 3), (nodes - 1, 2)):
            stage = GraphStage(graph, nodes, nodes, degree, seed=seed)
            generator = GRAPHS[graph]
            assert isinstance(generator, OffsetGraph)
            offsets = generator.offsets(nodes, degree, (), seed)
            assert transform(offsets[None], nodes)[0] == pytest.approx(sigma2(stage), abs=1e-7)


@pytest.mark.parametrize(("graph", "nodes"), [("circulant", 60), ("xor", 64)])
def test_a_search_finds_the_best_of_its_draws(graph: str, nodes: int) -> None:
    seed, value = best_offsets(graph, nodes, 7, 64)
    draws = [sigma2(GraphStage(graph, nodes, nodes, 7, seed=64 + s)) for s in range(DRAWS)]
    assert value == pytest.approx(min(draws), abs=1e-7)
    assert draws[seed - 64] == pytest.approx(min(draws), abs=1e-7)


def test_a_search_of_lifts_stops_at_the_bound() -> None:
    first = 100
    stage, value = best_lift(60, 60, 6, first)
    bound = ramanujan_bound(6, 6)
    draws = [sigma2(GraphStage("random", 60, 60, 6, seed=s)) for s in range(first, stage.seed + 1)]
    assert value == pytest.approx(draws[-1], abs=1e-7)
    assert draws[-1] <= bound
    assert all(draw > bound for draw in draws[:-1])


def test_an_element_of_an_order() -> None:
    for prime in (2, 3, 5, 7, 13, 61, 127, 4093):
        for order in (d for d in range(1, prime) if (prime - 1) % d == 0):
            h = element_of_order(order, prime)
            powers = {pow(h, power, prime) for power in range(order)}
            assert len(powers) == order
            assert pow(h, order, prime) == 1
