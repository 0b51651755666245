"""Graphs and random permutations in standard ONNX operators, recomputed from their few numbers.

A file stores no lists of indices. It computes them in int64 as `sparsify.steps` does in numpy,
equal to the last bit. All of it depends on constants alone, so that onnxruntime computes it once,
when it loads the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...steps.graphs import AdditiveGraph, XorGraph, graph_named
from ...steps.graphs.plane import Plane
from ...steps.graphs.random_lift import RandomLift
from ...steps.graphs.torus import Torus
from ...steps.scramble import PRIME, round_keys
from .graph import GraphWriter

if TYPE_CHECKING:
    from ...steps import GraphStage

__all__ = ["write_neighbours", "write_permutations"]


def write_permutations(write: GraphWriter, count: int, size: int, seed: int) -> str:
    """Write `sparsify.steps.scramble.permutations`.

    Args:
        write: where the nodes go.
        count: permutations.
        size: of each.
        seed: any whole number.

    Returns:
        The name of int64 (count, size).
    """
    prime = write.constant([PRIME])
    codes = write.range(0, count * size, 1)
    for key in round_keys(seed):
        codes = write("Mod", write("Add", codes, write.constant([key])), prime)
        square = write("Mod", write("Mul", codes, codes), prime)
        fourth = write("Mod", write("Mul", square, square), prime)
        codes = write("Mod", write("Mul", fourth, codes), prime)
    grid = write.reshape(codes, [count, size])
    _, order = write("TopK", grid, write.constant([size]), outputs=2, axis=-1, largest=0, sorted=1)
    return str(order)


def write_neighbours(write: GraphWriter, stage: GraphStage) -> str:
    """Write `stage.neighbours()`.

    Args:
        write: where the nodes go.
        stage: the graph.

    Returns:
        The name of int64 (out_features, degree).

    Raises:
        ModelError: the generator of the graph has no form in ONNX.
    """
    graph = graph_named(stage.graph)
    if isinstance(graph, RandomLift):
        return _random_lift(write, stage)
    form = next((form for kind, form in _FORMS if isinstance(graph, kind)), None)
    if form is None:
        raise ModelError(
            f"The graph {stage.graph!r} has no form in ONNX: random, torus and plane have one, and "
            "every AdditiveGraph and XorGraph. Convert the model without it to export it."
        )
    nodes = min(stage.in_features, stage.out_features)
    degree = stage.degree // (stage.in_features // nodes)
    links = form(write, graph, stage, nodes, degree)
    return _at_features(write, stage, links, nodes, degree)


def _random_lift(write: GraphWriter, stage: GraphStage) -> str:
    size = stage.in_features // stage.degree
    classes = stage.out_features // size
    drawn = write_permutations(write, classes * stage.degree, size, stage.seed)
    matchings = write.reshape(drawn, [classes, stage.degree, size])
    starts = write.reshape(write.range(0, stage.in_features, size), [stage.degree, 1])
    reads = write.transpose(write("Add", matchings, starts), 0, 2, 1)
    return write.reshape(reads, [stage.out_features, stage.degree])


def _at_features(write: GraphWriter, stage: GraphStage, links: str, nodes: int, degree: int) -> str:
    """From links between nodes, (nodes, degree), to inputs of outputs: see NodeGraph."""
    if stage.in_features > nodes:
        starts = write.reshape(write.range(0, stage.in_features, nodes), [-1, 1])
        links = write("Add", write.reshape(links, [nodes, 1, degree]), starts)
        links = write.reshape(links, [nodes, stage.degree])
    if stage.out_features > nodes:
        links = write("Tile", links, write.constant([stage.out_features // nodes, 1]))
    return links


def _nodes(write: GraphWriter, nodes: int) -> str:
    return write.reshape(write.range(0, nodes, 1), [nodes, 1])


def _additive(write: GraphWriter, graph: Any, stage: GraphStage, nodes: int, degree: int) -> str:
    offsets = graph.offsets(nodes, degree, stage.options, stage.seed) % nodes
    moved = write("Add", _nodes(write, nodes), write.constant(offsets.tolist()))
    return str(write("Mod", moved, write.constant([nodes])))


def _xor(write: GraphWriter, graph: Any, stage: GraphStage, nodes: int, degree: int) -> str:
    words = graph.offsets(nodes, degree, stage.options, stage.seed)
    return str(write("BitwiseXor", _nodes(write, nodes), write.constant(words.tolist())))


def _torus(write: GraphWriter, graph: Any, stage: GraphStage, nodes: int, degree: int) -> str:
    """Each neighbour is some steps along one axis, whose nodes lie some way apart, away."""
    steps = [(1, 1, 0)]  # side, distance, move: the node itself
    apart = nodes
    for side in stage.options:
        apart //= side
        steps += [(side, apart, move) for move in sorted({1, side - 1}) if side > 1]
    sides, distances, moves = (write.constant(column) for column in zip(*steps, strict=True))
    own = _nodes(write, nodes)
    place = write("Mod", write("Div", own, distances), sides)
    moved = write("Mod", write("Add", place, moves), sides)
    return str(write("Add", own, write("Mul", write("Sub", moved, place), distances)))


def _plane(write: GraphWriter, graph: Any, stage: GraphStage, nodes: int, degree: int) -> str:
    prime, own = write.constant([degree]), _nodes(write, nodes)
    slope, start = write("Div", own, prime), write("Mod", own, prime)
    x = write.range(0, degree, 1)
    y = write("Mod", write("Add", write("Mul", slope, x), start), prime)
    return str(write("Add", write("Mul", x, prime), y))


_Form = Callable[[GraphWriter, Any, "GraphStage", int, int], str]
_FORMS: tuple[tuple[type[Any], _Form], ...] = (
    (AdditiveGraph, _additive),
    (XorGraph, _xor),
    (Torus, _torus),
    (Plane, _plane),
)
