"""Our ops in the place of dense nodes, in a graph that came from a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...frontend.onnx.dense import Product
from ...frontend.onnx.edges import OnnxEdges, bodies
from ...nn import FabricLayer
from .dead import drop_dead
from .nodes import Bias, FabricNodes
from .ops import OpTable

if TYPE_CHECKING:
    import onnx

    from ...frontend.onnx.model import OnnxModel

__all__ = ["Rewritten", "rewrite"]

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rewritten:
    """A graph, and the values of its large tensors beside it.

    Args:
        proto: the model without these values.
        values: the bytes by the name of the initializer or of the output of the Constant node.
    """

    proto: onnx.ModelProto
    values: Mapping[str, Bytes]


def rewrite(model: OnnxModel) -> Rewritten:
    """The file of a model with a node of ours for each fabric that stands in it.

    A constant vector that is added to a product becomes its bias. Everything else stays as it is:
    names, metadata, open axes, other nodes. What only the dense weights needed is dropped.

    Args:
        model: a model, converted or not.

    Raises:
        ModelError: a fabric has no form in ONNX, or none in the opset of the file.
    """
    proto = copy.deepcopy(model.source.proto)
    names = _names(proto)
    writer = FabricNodes(proto, OpTable(names), names, dict(model.source.values))
    layers = {
        output: layer
        for output, path in model.reading.paths.items()
        if isinstance(layer := model.get_submodule(path), FabricLayer)
    }
    edges = OnnxEdges(proto.graph)
    biases = {
        output: bias
        for output, layer in layers.items()
        if (bias := _added(model.reading.products[output], layer, edges)) is not None
    }
    absorbed = {bias.output for bias in biases.values()}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        output = node.output[0] if node.output else ""
        if output in layers:
            found, path = model.reading.products[output], model.reading.paths[output]
            nodes += writer.nodes(node, found, path, layers[output], biases.get(output))
        elif output not in absorbed:
            nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend([*writer.tables, *nodes])
    writer.attach(model.source.opset)
    operands = [model.reading.products[output].operand for output in layers]
    drop_dead(proto.graph, [*operands, *biases])
    kept = {tensor.name for tensor in proto.graph.initializer}
    kept.update(name for node in proto.graph.node for name in node.output)
    return Rewritten(proto, {name: data for name, data in writer.values.items() if name in kept})


def _added(found: Product, layer: FabricLayer, edges: OnnxEdges) -> Bias | None:
    """The constant vector that the only reader of a MatMul adds to its output."""
    output = found.node.output[0]
    readers = edges.readers(output)
    is_bare = found.node.op_type in ("MatMul", "FusedMatMul")
    if not is_bare or len(readers) != 1 or output in edges.outputs:
        return None
    (reader,) = readers
    others = [name for name in reader.input if name != output]
    held = edges.initializers.get(others[0]) if reader.op_type == "Add" and others else None
    if held is None or list(held.dims) != [layer.fabric.out_features]:
        return None
    return Bias(held.name, reader.output[0])


def _names(proto: onnx.ModelProto) -> set[str]:
    """Every name of a value, a node or an op that a graph and the bodies in it use."""
    graph = proto.graph
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    names.update(function.name for function in proto.functions)
    names.update(sparse.values.name for sparse in graph.sparse_initializer)
    graphs = [graph]
    while graphs:
        for node in graphs.pop().node:
            names.update((node.name, *node.input, *node.output))
            for inner in bodies(node):
                graphs.append(inner)
                values = (*inner.input, *inner.output, *inner.initializer)
                names.update(value.name for value in values)
    return names
