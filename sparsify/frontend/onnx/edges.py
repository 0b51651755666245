"""Who makes and who reads each value of an ONNX graph, the bodies of If, Loop and Scan included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxEdges", "attributes", "bodies", "captured"]


class OnnxEdges:
    """An index of the main graph of a model.

    Args:
        graph: the graph.

    Attributes:
        initializers: its constants by name: those that no caller may override.
        overridable: names of initializers that are inputs too, and so only defaults.
        outputs: names of the graph's outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Walk over the nodes once."""
        inputs = {value.name for value in graph.input}
        held = {tensor.name: tensor for tensor in graph.initializer}
        self.initializers = {name: held[name] for name in held if name not in inputs}
        self.overridable = frozenset(held).intersection(inputs)
        self.outputs = frozenset(value.name for value in graph.output)
        self._producers: dict[str, onnx.NodeProto] = {}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.output:
                self._producers[name] = node
            for name in dict.fromkeys((*node.input, *captured(node))):
                self._readers.setdefault(name, []).append(node)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that a value comes from; None for inputs and initializers."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value, themselves or in a body of theirs."""
        return self._readers.get(name, [])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as plain values; texts as str."""
    from onnx import helper

    values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value
        for name, value in values.items()
    }


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node runs: branches, loop bodies."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def captured(node: onnx.NodeProto) -> list[str]:
    """Names of outer values that the bodies of a node read."""
    found: dict[str, None] = {}
    for graph in bodies(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            names = (*inner.input, *captured(inner))
            found.update(dict.fromkeys(name for name in names if name and name not in own))
            own.update(inner.output)
        found.update(dict.fromkeys(o.name for o in graph.output if o.name not in own))
    return list(found)
