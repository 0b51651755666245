"""Our ops in the place of dense nodes, in a graph that came from a file."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..frontend.onnx_dense import Product
from ..frontend.onnx_edges import attributes, bodies
from ..nn import FabricLayer
from ..ops.window import Window
from .onnx_dead import drop_dead
from .onnx_ops import DOMAIN, DOMAIN_VERSION, OpTable, structure
from .onnx_write import notes

if TYPE_CHECKING:
    import onnx

    from ..frontend.onnx_model import OnnxModel

__all__ = ["Rewritten", "bytes_of", "element_type", "rewrite"]

_IR_VERSION = 8  # the first version of the format whose files may have function bodies

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

    Everything else stays as it is: names, metadata, open axes, other nodes. What only the dense
    weights needed is dropped.

    Args:
        model: a model, converted or not.

    Raises:
        ModelError: a fabric has no form in ONNX.
    """
    proto = copy.deepcopy(model.source.proto)
    writer = _Writer(proto, OpTable(_names(proto)), dict(model.source.values))
    nodes: list[onnx.NodeProto] = []
    dead: list[str] = []
    for node in proto.graph.node:
        output = node.output[0] if node.output else ""
        path = model.reading.paths.get(output)
        layer = None if path is None else model.get_submodule(path)
        if path is not None and isinstance(layer, FabricLayer):
            found = model.reading.products[output]
            nodes += writer.nodes_for(node, found, path, layer)
            dead.append(found.operand)
        else:
            nodes.append(node)
    nodes = [*writer.tables(), *nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    writer.finish(model.source.opset)
    drop_dead(proto.graph, dead)
    kept = {t.name for t in proto.graph.initializer}
    kept.update(name for node in proto.graph.node for name in node.output)
    return Rewritten(proto, {name: data for name, data in writer.values.items() if name in kept})


def bytes_of(tensor: Tensor) -> Bytes:
    """The memory of a tensor, a copy only where it is not contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(tensor.numel())
    array: Bytes = flat.view(torch.uint8).numpy()
    return array


def element_type(dtype: torch.dtype) -> int:
    """ONNX's number for a type of weights."""
    from onnx import TensorProto

    kinds: dict[torch.dtype, int] = {
        torch.float32: TensorProto.FLOAT,
        torch.float16: TensorProto.FLOAT16,
        torch.bfloat16: TensorProto.BFLOAT16,
        torch.float64: TensorProto.DOUBLE,
    }
    return kinds[dtype]


@dataclass
class _Writer:
    """Makes nodes and initializers, under names that are free."""

    proto: onnx.ModelProto
    table: OpTable
    values: dict[str, Bytes]
    _indices: dict[int, str] = field(default_factory=dict)
    _tables: list[onnx.NodeProto] = field(default_factory=list)
    _factors: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note the names that the graph has."""
        self._taken = _names(self.proto)

    def nodes_for(
        self, node: onnx.NodeProto, found: Product, path: str, layer: FabricLayer
    ) -> Iterator[onnx.NodeProto]:
        """What takes the place of a dense node."""
        values = attributes(node)
        bias = node.input[2] if len(node.input) > 2 else ""
        beta = values.get("beta", 1.0)
        if found.geometry is not None:
            yield from self._conv(node, found, path, layer, bias)
        elif not bias or beta == 0:
            yield self._fabric(node, layer, path, found.x, None, node.output[0])
        else:
            product = self._free(f"{path}.product")
            yield self._fabric(node, layer, path, found.x, None, product)
            if beta != 1:
                factor = self._initializer(f"{path}.beta", torch.tensor(beta, dtype=_dtype(layer)))
                scaled = self._free(f"{path}.bias")
                yield self._node("Mul", [bias, factor], scaled)
                bias = scaled
            yield self._node("Add", [product, bias], node.output[0])

    def _conv(
        self, node: onnx.NodeProto, found: Product, path: str, layer: FabricLayer, bias: str
    ) -> Iterator[onnx.NodeProto]:
        geometry = found.geometry
        assert geometry is not None
        x, output = found.x, node.output[0]
        if not geometry.is_even:
            pads = [0, 0, *geometry.before, 0, 0, *geometry.after]
            padded = self._free(f"{path}.padded")
            sizes = self._initializer(f"{path}.pads", torch.tensor(pads))
            yield self._node("Pad", [x, sizes], padded)
            x = padded
        window = Window.of(
            geometry.strides,
            geometry.padding,
            geometry.dilations,
            geometry.output_padding is not None,
            geometry.output_padding or (),
        )
        if not bias:
            yield self._fabric(node, layer, path, x, window, output)
            return
        product, image = self._free(f"{path}.product"), self._free(f"{path}.bias")
        yield self._fabric(node, layer, path, x, window, product)
        shape = torch.tensor([1, -1, *(1 for _ in geometry.strides)])
        yield self._node("Reshape", [bias, self._initializer(f"{path}.shape", shape)], image)
        yield self._node("Add", [product, image], output)

    def _fabric(
        self,
        node: onnx.NodeProto,
        layer: FabricLayer,
        path: str,
        x: str,
        window: Window | None,
        output: str,
    ) -> onnx.NodeProto:
        from onnx import helper

        if path not in self._factors:  # a layer that several nodes call has one set
            self._factors[path] = [
                self._initializer(f"{path}.factors.{i}", factor.detach())
                for i, factor in enumerate(layer.factors)
            ]
        names = [x, *self._indices_of(layer), *self._factors[path]]
        made = helper.make_node(
            self.table.name(layer.fabric, window),
            names,
            [output],
            name=node.name or path,
            domain=DOMAIN,
            **structure(layer.fabric, window),
        )
        made.metadata_props.extend(node.metadata_props)
        self._note_type(output, _dtype(layer))
        return made

    def _indices_of(self, layer: FabricLayer) -> list[str]:
        number = self.table.tables(layer.fabric)
        if number is None:
            return []
        if number not in self._indices:
            self._tables += self.table.write_tables(number).nodes
            self._indices[number] = self._tables[-1].output[0]
        return [self._indices[number]]

    def tables(self) -> list[onnx.NodeProto]:
        """The nodes that compute the tables of indices."""
        return self._tables

    def finish(self, opset: int) -> None:
        """Attach the bodies."""
        from onnx import helper

        used = {node.op_type for node in self.proto.graph.node if node.domain == DOMAIN}
        functions = self.table.functions(used, opset)
        if not functions:
            return
        self.proto.functions.extend(functions)
        for entry in [e for e in self.proto.metadata_props if e.key in notes()]:
            self.proto.metadata_props.remove(entry)
        for key, value in notes().items():
            self.proto.metadata_props.add(key=key, value=value)
        self.proto.ir_version = max(self.proto.ir_version, _IR_VERSION)
        if DOMAIN not in {entry.domain for entry in self.proto.opset_import}:
            self.proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))

    def _node(self, op: str, inputs: Sequence[str], output: str) -> onnx.NodeProto:
        from onnx import helper

        return helper.make_node(op, inputs, [output], name=self._free(f"{output}.{op}"))

    def _initializer(self, name: str, tensor: Tensor) -> str:
        from onnx import TensorProto

        name = self._free(name)
        kind = TensorProto.INT64 if tensor.dtype == torch.int64 else element_type(tensor.dtype)
        held = TensorProto(name=name, data_type=kind, dims=list(tensor.shape))
        data = bytes_of(tensor)
        if kind == TensorProto.INT64 or not tensor.dim():  # shapes are read by whoever infers some
            held.raw_data = data.tobytes()
        else:
            self.values[name] = data
        self.proto.graph.initializer.append(held)
        return name

    def _note_type(self, name: str, dtype: torch.dtype) -> None:
        """Write down what our node gives: onnxruntime 1.17 does not infer it for its custom ops."""
        from onnx import helper

        graph = self.proto.graph
        if name not in {value.name for value in (*graph.value_info, *graph.output)}:
            value = helper.make_tensor_value_info(name, element_type(dtype), None)
            graph.value_info.append(value)

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _dtype(layer: FabricLayer) -> torch.dtype:
    return layer.factors[0].dtype


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
