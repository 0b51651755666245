"""Values of an ONNX graph that are known without running it, as torch tensors.

A weight may be an initializer or come from one through nodes that only arrange, convert or
dequantize it. These are folded; behind any other node a weight counts as computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .edges import OnnxEdges, attributes, captured
from .file import OnnxFile
from .shapes import Shape

if TYPE_CHECKING:
    import onnx

__all__ = ["Constant", "Constants", "tensor_of"]

_DTYPES = {
    "FLOAT": torch.float32,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "DOUBLE": torch.float64,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
}
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial")


@dataclass(frozen=True)
class Constant:
    """A known value.

    Args:
        tensor: the value; shares memory with the initializer where nothing was converted.
        chain: the names from this value back to the initializer, both included.
    """

    tensor: Tensor
    chain: tuple[str, ...]


class Constants:
    """The constants of a graph; each is worked out once.

    Args:
        file: whose main graph.
        graph: its index.
        shapes: sizes of its values, for those that are not worked out.
    """

    def __init__(
        self, file: OnnxFile, graph: OnnxEdges, shapes: Mapping[str, Shape] | None = None
    ) -> None:
        """Start without any."""
        self._file, self._graph, self._shapes = file, graph, shapes or {}
        self._known: dict[str, Constant | None] = {}
        self._fixed = {*graph.initializers, *graph.overridable}
        for node in file.proto.graph.node:
            if node.op_type not in _RANDOM and self._fixed.issuperset(
                name for name in (*node.input, *captured(node)) if name
            ):
                self._fixed.update(node.output)

    def __getitem__(self, name: str) -> Constant | None:
        """A value by its name; None where it is not known, or of a type that torch lacks."""
        if name not in self._known:
            self._known[name] = None  # a graph with a cycle is no graph; end there
            self._known[name] = self._find(name)
        return self._known[name]

    def is_fixed(self, name: str) -> bool:
        """Whether a value is the same in every run, known or not; defaults of inputs count."""
        return name in self._fixed

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The sizes of a fixed value, () where they are not known; None where it is not fixed."""
        if name not in self._fixed:
            return None
        if (known := self[name]) is not None:
            return tuple(known.tensor.shape)
        inferred = self._shapes.get(name, ())
        return () if None in inferred else tuple(size for size in inferred if size is not None)

    def why_unknown(self, name: str) -> str:
        """Why a fixed value is not known, as a reason of a plan."""
        if name in self._graph.overridable:
            return "its weight is an input of the model, with a default"
        node = self._graph.producer(name)
        if node is None:
            return "its weight is of a type that torch lacks"
        first = node.input[0] if node.input else ""
        if node.op_type in _FOLDS and first and self[first] is None:
            return self.why_unknown(first)
        return f"its weight is computed by {node.op_type}"

    def _find(self, name: str) -> Constant | None:
        held = self._graph.initializers.get(name)
        if held is not None:
            tensor = tensor_of(held, self._file, name)
            return None if tensor is None else Constant(tensor, (name,))
        node = self._graph.producer(name)
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Constant":
            value = attributes(node).get("value")
            tensor = None if value is None else tensor_of(value, self._file, name)
            return None if tensor is None else Constant(tensor, (name,))
        fold = _FOLDS.get(node.op_type)
        if fold is None or name not in self._fixed:
            return None
        inputs = [self[entry] if entry else None for entry in node.input]
        first, *others = inputs
        if first is None or any(
            entry and found is None for entry, found in zip(node.input, inputs, strict=True)
        ):
            return None
        rest = [None if found is None else found.tensor for found in others]
        tensor = fold(node, first.tensor, rest)
        return None if tensor is None else Constant(tensor, (name, *first.chain))


def tensor_of(held: onnx.TensorProto, file: OnnxFile, name: str) -> Tensor | None:
    """The value of a tensor of the main graph; None where torch has no such type.

    Args:
        held: the tensor.
        file: what it is of.
        name: under which the file keeps its bytes.
    """
    from onnx import numpy_helper

    dtype = _DTYPES.get(held.DataType.Name(held.data_type))
    if dtype is None:
        return None
    data = file.values.get(name)
    if data is not None:
        return torch.from_numpy(data).view(dtype).reshape(tuple(held.dims))
    if held.raw_data:
        return torch.frombuffer(bytearray(held.raw_data), dtype=dtype).reshape(tuple(held.dims))
    array = numpy_helper.to_array(held)
    if dtype is torch.bfloat16:  # numpy has none, and onnx's answer differs between its versions
        array = array.astype("float32")
    return torch.from_numpy(array.copy()).to(dtype)


_Fold = Callable[["onnx.NodeProto", Tensor, Sequence[Tensor | None]], Tensor | None]


def _same(node: onnx.NodeProto, x: Tensor, others: Sequence[Tensor | None]) -> Tensor:
    return x


def _transpose(node: onnx.NodeProto, x: Tensor, others: Sequence[Tensor | None]) -> Tensor:
    return x.permute(attributes(node).get("perm") or tuple(reversed(range(x.dim()))))


def _cast(node: onnx.NodeProto, x: Tensor, others: Sequence[Tensor | None]) -> Tensor | None:
    from onnx import TensorProto

    dtype = _DTYPES.get(TensorProto.DataType.Name(attributes(node)["to"]))
    return None if dtype is None else x.to(dtype)


def _reshape(node: onnx.NodeProto, x: Tensor, others: Sequence[Tensor | None]) -> Tensor | None:
    if len(others) != 1 or others[0] is None:
        return None
    copies = not attributes(node).get("allowzero", 0)
    sizes = [int(size) for size in others[0]]
    return x.reshape([x.shape[i] if size == 0 and copies else size for i, size in enumerate(sizes)])


def _unsqueeze(node: onnx.NodeProto, x: Tensor, others: Sequence[Tensor | None]) -> Tensor | None:
    if len(others) != 1 or others[0] is None:
        return None
    rank = x.dim() + others[0].numel()
    for axis in sorted(int(axis) % rank for axis in others[0]):
        x = x.unsqueeze(axis)
    return x


def _squeeze(node: onnx.NodeProto, x: Tensor, others: Sequence[Tensor | None]) -> Tensor:
    if not others or others[0] is None:
        return x.squeeze()
    return x.squeeze(tuple(int(axis) for axis in others[0]))


def _dequantize(node: onnx.NodeProto, x: Tensor, others: Sequence[Tensor | None]) -> Tensor | None:
    """One scale, or one for each entry of an axis."""
    scale, zero = (*others, None)[:2]
    if scale is None or attributes(node).get("block_size", 0) or scale.dim() > 1:
        return None
    shape = [1] * x.dim()
    if scale.numel() > 1:
        shape[attributes(node).get("axis", 1)] = scale.numel()
    shift = 0 if zero is None else zero.to(torch.int32).reshape(shape if zero.dim() else [])
    return (x.to(torch.int32) - shift).to(scale.dtype) * scale.reshape(shape)


_FOLDS: dict[str, _Fold] = {
    "Identity": _same,
    "Transpose": _transpose,
    "Cast": _cast,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "DequantizeLinear": _dequantize,
}
"""What stands between an initializer and the product that it is the weight of."""
