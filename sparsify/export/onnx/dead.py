"""Dropping from a graph what nobody reads any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ...frontend.onnx.edges import captured

if TYPE_CHECKING:
    import onnx

__all__ = ["drop_dead"]


def drop_dead(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Drop values without a reader, with the nodes and initializers that they alone came from.

    What was dead before stays, unless such a value depends on it.

    Args:
        graph: changed in place.
        names: the values to start from.
    """
    readers = Counter(name for node in graph.node for name in _reads(node))
    readers.update(value.name for value in graph.output)
    producers = {name: node for node in graph.node for name in node.output}
    gone: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        node = producers.get(name)
        made = [name] if node is None else list(node.output)
        if name in gone or any(readers[value] for value in made):
            continue
        gone.update(made)
        if node is not None:
            readers.subtract(_reads(node))
            queue += _reads(node)
    _keep(graph.node, lambda node: not gone.intersection(node.output))
    _keep(graph.initializer, lambda tensor: tensor.name not in gone)
    _keep(graph.value_info, lambda value: value.name not in gone)
    _keep(graph.quantization_annotation, lambda note: note.tensor_name not in gone)


def _reads(node: onnx.NodeProto) -> list[str]:
    return [name for name in (*node.input, *captured(node)) if name]


def _keep(field: Any, is_kept: Callable[[Any], bool]) -> None:
    """Filter a repeated field of a message."""
    kept = [entry for entry in field if is_kept(entry)]
    if len(kept) < len(field):
        del field[:]
        field.extend(kept)
