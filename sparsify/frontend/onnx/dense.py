"""The operators of ONNX that multiply by a weight, and for which a layer of torch can stand.

To serve another operator: one function and one line of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .constants import Constant, Constants
from .edges import attributes
from .shapes import Shape

if TYPE_CHECKING:
    import onnx

__all__ = ["Geometry", "Product", "Sizes", "product", "sizes_of", "weight_positions"]

_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_ONNX = ("", "ai.onnx")


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its positions; one number for each spatial axis.

    Args:
        strides: steps between outputs.
        dilations: distances between taps.
        before: zeros added at the start.
        after: zeros added at the end.
        groups: groups of channels.
        output_padding: of a transposed convolution; None for a plain one.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...] | None = None

    @property
    def is_even(self) -> bool:
        """Whether both ends are padded alike, as torch's layers and our ops do it."""
        return self.before == self.after

    @property
    def padding(self) -> tuple[int, ...]:
        """What the layer itself pads; an uneven padding goes before it."""
        return self.before if self.is_even else (0,) * len(self.before)


@dataclass(frozen=True)
class Product:
    """A node that a layer can stand for.

    Args:
        node: the node.
        x: the name of its input.
        operand: the name of its weight.
        weight: its value in the layout of torch's layers, with the node's own factor in it.
        chain: the names from the operand back to the initializer.
        geometry: of a convolution; None for a matrix product.
    """

    node: onnx.NodeProto
    x: str
    operand: str
    weight: Tensor
    chain: tuple[str, ...]
    geometry: Geometry | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for nodes that one layer can stand for."""
        weight = self.weight
        return (
            weight.data_ptr(),
            tuple(weight.shape),
            weight.stride(),
            weight.dtype,
            self.geometry,
        )

    def layer(self) -> nn.Module:
        """The layer, without a bias, on the memory of the weight."""
        layer: nn.Module
        window, shape = self.geometry, self.weight.shape
        plain: dict[str, Any] = {"bias": False, "device": "meta"}
        if window is None:
            layer = nn.Linear(shape[1], shape[0], **plain)
        else:
            plain |= {"stride": window.strides, "padding": window.padding}
            plain |= {"dilation": window.dilations, "groups": window.groups}
            rank, kernel = len(window.strides), tuple(shape[2:])
            if window.output_padding is None:
                layer = _CONVS[rank](shape[1] * window.groups, shape[0], kernel, **plain)
            else:
                plain["output_padding"] = window.output_padding
                layer = _TRANSPOSED[rank](shape[0], shape[1] * window.groups, kernel, **plain)
        layer.weight = nn.Parameter(self.weight, requires_grad=False)
        return layer.eval()


_CONVS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a product that is only listed.

    Args:
        kind: what it is, as sites call it.
        in_features: inputs.
        out_features: outputs.
        kernel: taps of a convolution.
        groups: its groups.
    """

    kind: str
    in_features: int
    out_features: int
    kernel: tuple[int, ...] = ()
    groups: int = 1


def product(
    node: onnx.NodeProto, constants: Constants, shapes: dict[str, Shape]
) -> Product | str | None:
    """What a layer can stand for.

    Args:
        node: any node of the main graph.
        constants: the values that are known.
        shapes: sizes that hold for every input of the model, None where they may differ.

    Returns:
        The product; why no layer can stand for one, as a reason of a plan; or None where the node
        multiplies by no weight.
    """
    positions = weight_positions(node)
    weights = [i for i in positions if i < len(node.input) and constants.is_fixed(node.input[i])]
    if not weights or len(weights) == len(node.input) == 2:
        return None
    read = _READERS.get(node.op_type)
    if read is None:
        return _reason(node)
    operand = node.input[weights[0]]
    weight = constants[operand]
    if weight is None:
        return constants.why_unknown(operand)
    if weight.tensor.dtype not in _FLOATING:
        return f"its weight is of type {weight.tensor.dtype}".replace("torch.", "")
    return read(node, weights[0], weight, shapes)


def weight_positions(node: onnx.NodeProto) -> tuple[int, ...]:
    """Which inputs of a node may be a weight of a product; () for all other operators."""
    if node.domain in _ONNX:
        return _WEIGHTS.get(node.op_type, ())
    return _CONTRIBUTED.get(node.op_type, ()) if node.domain == "com.microsoft" else ()


def sizes_of(node: onnx.NodeProto, position: int, shape: Sequence[int]) -> Sizes:
    """The sizes of a product, from those of one of its weights.

    Args:
        node: the node.
        position: of the weight among its inputs.
        shape: of the weight.
    """
    values, op = attributes(node), node.op_type
    kind = op.lower()
    if "Conv" in op:
        groups = max(1, values.get("group", 1))
        kernel = tuple(shape[2:])
        if len(shape) < 3:
            return Sizes(kind, 1, 1)
        if op == "ConvTranspose":
            return Sizes(
                f"conv_transpose{len(kernel)}d", shape[0], shape[1] * groups, kernel, groups
            )
        return Sizes(f"conv{len(kernel)}d", shape[1] * groups, shape[0], kernel, groups)
    if len(shape) < 2 or not math.prod(shape):
        return Sizes(kind, max(1, math.prod(shape)), 1)
    is_turned = bool(values.get("transB")) if position else op != "Gemm"
    if op in ("LSTM", "GRU", "RNN"):
        is_turned = True
    *stack, rows, columns = shape
    inputs, outputs = (columns, rows) if is_turned else (rows, columns)
    return Sizes(kind, inputs, outputs * math.prod(stack))


# Position of the weights among the inputs, the likeliest first.
_WEIGHTS: dict[str, tuple[int, ...]] = {
    "MatMul": (1, 0),
    "Gemm": (1, 0),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "DeformConv": (1,),
    "Einsum": (1, 0),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "MatMulInteger": (1, 0),
    "QLinearMatMul": (3, 0),
    "ConvInteger": (1,),
    "QLinearConv": (3,),
}
_CONTRIBUTED: dict[str, tuple[int, ...]] = {
    "FusedMatMul": (1, 0),
    "FusedGemm": (1,),
    "FusedConv": (1,),
    "Attention": (1,),
    "QAttention": (1,),
    "QGemm": (3,),
    "DynamicQuantizeMatMul": (1,),
    "MatMulIntegerToFloat": (1,),
    "MatMulNBits": (1,),
}
_QUANTISED = ("Integer", "QLinear", "QAttention", "QGemm", "Quantize", "NBits")


def _reason(node: onnx.NodeProto) -> str:
    if any(word in node.op_type for word in _QUANTISED):
        return f"quantised ({node.op_type})"
    return f"a fabric cannot stand for the operator {node.op_type}"


def _matmul(
    node: onnx.NodeProto, position: int, weight: Constant, shapes: dict[str, Shape]
) -> Product | str:
    if position == 0:
        return "its weight is the left operand"
    if weight.tensor.dim() != 2:
        return f"its weight has {weight.tensor.dim()} axes, not 2"
    return Product(node, node.input[0], node.input[1], weight.tensor.T, weight.chain)


def _gemm(
    node: onnx.NodeProto, position: int, weight: Constant, shapes: dict[str, Shape]
) -> Product | str:
    values = attributes(node)
    if position == 0:
        return "its weight is the left operand"
    if values.get("transA", 0):
        return "its input is transposed (transA)"
    if values.get("transBatchA", 0) or values.get("transBatchB", 0) or weight.tensor.dim() != 2:
        return f"its weight has {weight.tensor.dim()} axes, or its batch is transposed"
    tensor = weight.tensor if values.get("transB", 0) else weight.tensor.T
    alpha = values.get("alpha", 1.0)
    tensor = tensor if alpha == 1.0 else tensor * alpha
    return Product(node, node.input[0], node.input[1], tensor, weight.chain)


def _conv(
    node: onnx.NodeProto, position: int, weight: Constant, shapes: dict[str, Shape]
) -> Product | str:
    rank = weight.tensor.dim() - 2
    if rank not in _CONVS:
        return f"a convolution over {rank} axes"
    geometry = _geometry(
        attributes(node), tuple(weight.tensor.shape[2:]), shapes.get(node.input[0])
    )
    if isinstance(geometry, str):
        return geometry
    return Product(node, node.input[0], node.input[1], weight.tensor, weight.chain, geometry)


def _geometry(
    values: dict[str, Any], kernel: tuple[int, ...], shape: Shape | None
) -> Geometry | str:
    """The window of a Conv; or why it is not known beforehand."""
    rank = len(kernel)
    ones = (1,) * rank
    strides = tuple(values.get("strides", ones))
    dilations = tuple(values.get("dilations", ones))
    pads = tuple(values.get("pads", (0,) * (2 * rank)))
    if values.get("auto_pad", "NOTSET").startswith("SAME"):
        totals = []
        for axis, (size, step, reach) in enumerate(zip(kernel, strides, dilations, strict=True)):
            span = reach * (size - 1)
            length = shape[axis + 2] if shape is not None else None
            if step == 1:
                totals.append(span)
            elif length is None:
                return "its padding depends on the size of the image (auto_pad)"
            else:
                totals.append(max(0, (-(-length // step) - 1) * step + span + 1 - length))
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        upper = values["auto_pad"] == "SAME_UPPER"
        pads = (*less, *more) if upper else (*more, *less)
    elif values.get("auto_pad") == "VALID":
        pads = (0,) * (2 * rank)
    if min(pads) < 0:
        return "its padding is negative"
    return Geometry(strides, dilations, pads[:rank], pads[rank:], values.get("group", 1))


def _conv_transpose(
    node: onnx.NodeProto, position: int, weight: Constant, shapes: dict[str, Shape]
) -> Product | str:
    values = attributes(node)
    if "output_shape" in values or values.get("auto_pad", "NOTSET").startswith("SAME"):
        return "its padding follows from the size of its output (auto_pad, output_shape)"
    found = _conv(node, position, weight, shapes)
    if isinstance(found, str) or found.geometry is None:
        return found
    if not found.geometry.is_even:
        return "its padding differs between the two ends of an axis"
    extra = tuple(values.get("output_padding", (0,) * len(found.geometry.strides)))
    return replace(found, geometry=replace(found.geometry, output_padding=extra))


_Reader = Callable[["onnx.NodeProto", int, Constant, dict[str, Shape]], Product | str]
_READERS: dict[str, _Reader] = {
    "MatMul": _matmul,
    "FusedMatMul": _gemm,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
}
"""Operator -> what a layer can stand for, or why none can."""
