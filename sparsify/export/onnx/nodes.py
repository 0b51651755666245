"""The nodes that stand for one dense node, their initializers, names and bodies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import ModelError
from ...frontend.onnx.dense import Product
from ...frontend.onnx.edges import attributes
from ...nn import FabricLayer
from ...ops.window import Window
from .ops import DOMAIN, DOMAIN_VERSION, OpTable, structure
from .write import notes

if TYPE_CHECKING:
    import onnx

__all__ = ["Bias", "FabricNodes", "bytes_of", "element_type"]

_IR_VERSION = 8  # the first version of the format whose files may have function bodies

Bytes = npt.NDArray[np.uint8]


class Bias(NamedTuple):
    """A constant vector that is added to a product.

    Args:
        name: of the vector.
        output: of the sum.
    """

    name: str
    output: str


@dataclass
class FabricNodes:
    """Makes the nodes of fabrics, and initializers under names that are free.

    Args:
        proto: the model that they are for; initializers, types and bodies go into it.
        table: the ops of the file.
        taken: the names that it has.
        values: the bytes of its large tensors; those of factors are added.
    """

    proto: onnx.ModelProto
    table: OpTable
    taken: set[str]
    values: dict[str, Bytes]
    tables: list[onnx.NodeProto] = field(default_factory=list)
    _indices: dict[int, str] = field(default_factory=dict)
    _factors: dict[str, list[str]] = field(default_factory=dict)

    def nodes(
        self,
        node: onnx.NodeProto,
        found: Product,
        path: str,
        layer: FabricLayer,
        added: Bias | None,
    ) -> Iterator[onnx.NodeProto]:
        """What takes the place of a dense node.

        Args:
            node: the node.
            found: what is known of it.
            path: of its layer.
            layer: the fabric.
            added: what its only reader adds to its output; that node goes as well.
        """
        values, output = attributes(node), node.output[0]
        bias = node.input[2] if len(node.input) > 2 and values.get("beta", 1.0) else ""
        if found.geometry is not None:
            yield from self._conv(node, found, path, layer, bias)
        elif added is not None and not bias:
            yield self._fabric(node, layer, path, found.x, None, added.output, added.name)
        elif not bias:
            yield self._fabric(node, layer, path, found.x, None, output)
        elif values.get("beta", 1.0) == 1.0 and self._is_vector(bias, layer):
            yield self._fabric(node, layer, path, found.x, None, output, bias)
        else:
            product = self._free(f"{path}.product")
            yield self._fabric(node, layer, path, found.x, None, product)
            beta = torch.tensor(values.get("beta", 1.0), dtype=_dtype(layer))
            factor, scaled = self._initializer(f"{path}.beta", beta), self._free(f"{path}.bias")
            yield self._node("Mul", [bias, factor], scaled)
            yield self._node("Add", [product, scaled], output)

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
        bias: str = "",
    ) -> onnx.NodeProto:
        from onnx import helper

        if path not in self._factors:  # a layer that several nodes call has one set
            self._factors[path] = [
                self._initializer(f"{path}.factors.{i}", factor.detach())
                for i, factor in enumerate(layer.factors)
            ]
        names = [x, *self._indices_of(layer), *self._factors[path], *([bias] if bias else [])]
        described: dict[str, Any] = {**structure(layer.fabric, window, bool(bias))}
        made = helper.make_node(
            self.table.name(layer.fabric, window, bool(bias)),
            names,
            [output],
            name=node.name or self._free(path),
            domain=DOMAIN,
            **described,
        )
        made.metadata_props.extend(node.metadata_props)
        self._note_type(output, _dtype(layer))
        return made

    def _indices_of(self, layer: FabricLayer) -> list[str]:
        number = self.table.tables(layer.fabric)
        if number is None:
            return []
        if number not in self._indices:
            self.tables += self.table.write_tables(number).nodes
            self._indices[number] = self.tables[-1].output[0]
        return [self._indices[number]]

    def attach(self, opset: int) -> None:
        """Attach the bodies.

        Raises:
            ModelError: they need operators of a later opset.
        """
        from onnx import helper

        used = {node.op_type for node in self.proto.graph.node if node.domain == DOMAIN}
        functions = self.table.functions(used, opset)
        if not functions:
            return
        for node in (*self.tables, *(node for f in functions for node in f.node)):
            _check_opset(node.op_type, opset)
        self.proto.functions.extend(functions)
        for entry in [e for e in self.proto.metadata_props if e.key in notes()]:
            self.proto.metadata_props.remove(entry)
        for key, value in notes().items():
            self.proto.metadata_props.add(key=key, value=value)
        self.proto.ir_version = max(self.proto.ir_version, _IR_VERSION)
        if DOMAIN not in {entry.domain for entry in self.proto.opset_import}:
            self.proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))

    def _is_vector(self, name: str, layer: FabricLayer) -> bool:
        """Whether an initializer has one number per output."""
        wanted = [layer.fabric.out_features]
        return any(
            tensor.name == name and list(tensor.dims) == wanted
            for tensor in self.proto.graph.initializer
        )

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
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _check_opset(op: str, opset: int) -> None:
    from onnx import defs

    try:
        defs.get_schema(op, opset, "")
    except defs.SchemaError:
        first = defs.get_schema(op, "").since_version
        raise ModelError(
            f"The file has opset {opset}, and its fabrics need {op}, which came with {first}. "
            "Choose another topology, or export the model anew with a later opset."
        ) from None


def _dtype(layer: FabricLayer) -> torch.dtype:
    dtype: torch.dtype = layer.factors[0].dtype
    return dtype


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
