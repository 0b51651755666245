"""The dense operations of ATen: which operand can be the weight, of what sizes, at what cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import fx

__all__ = ["Reading", "is_dense", "readings"]


@dataclass(frozen=True)
class Reading:
    """One way to read a dense product: one operand as the weight, another as the activation.

    Args:
        weight: the operand.
        activation: position of the other one among the node's arguments.
        kind: "matmul", "conv", "conv_transpose", "grouped_matmul", "bilinear", "recurrent",
            "attention" or "distance".
        flops: of this product, a multiply-add counted as two.
        inputs: input features; channels of all groups for a convolution.
        outputs: output features.
        kernel: spatial taps.
        groups: groups of a convolution.
        copies: matrices that are stacked in the operand; each row of the activation meets one.
    """

    weight: fx.Node
    activation: int
    kind: str
    flops: int
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    groups: int = 1
    copies: int = 1


Readings = Iterator[tuple[Reading, ...]]


def readings(node: fx.Node) -> list[tuple[Reading, ...]]:
    """The dense products that a node makes; of each, the ways to read it, the likeliest first."""
    read = _OPERATIONS.get(str(node.target)) if node.op == "call_function" else None
    return [] if read is None else list(read(node))


def is_dense(node: fx.Node) -> bool:
    """Whether a node computes dense products, or may: its name says so, or nobody knows it.

    An operation of another library can be anything; those of ATen that multiply matrices have
    names that say so.
    """
    namespace, _, name = str(node.target).partition(".")
    if namespace in ("sparsify", "prims", "_operator") or node.op != "call_function":
        return False
    if namespace != "aten":
        return "." in name
    return any(word in name for word in _WORDS)


_WORDS = (
    "mm", "mv", "dot", "linear", "matmul", "conv", "einsum", "lstm", "gru", "rnn", "attention",
    "bilinear_", "trilinear", "cdist", "euclidean_dist", "transformer_encoder", "kron",
)  # fmt: skip


def _matmul(left: int, right: int) -> Callable[[fx.Node], Readings]:
    """(..., m, k) times (..., k, n); either may be the weight."""

    def read(node: fx.Node) -> Readings:
        first, second = _shape(node.args[left]), _shape(node.args[right])
        if len(second) == 1:
            second = (*second, 1)
        if len(first) == 1:
            first = (1, *first)
        rows, inner, outer = first[-2], first[-1], second[-1]
        stack = max(math.prod(first[:-2]), math.prod(second[:-2]))
        flops = 2 * stack * rows * inner * outer
        yield (
            _reading(node, right, left, flops, inner, outer, copies=math.prod(second[:-2])),
            _reading(node, left, right, flops, inner, rows, copies=math.prod(first[:-2])),
        )

    return read


def _linear(node: fx.Node) -> Readings:
    """Rows times the transposed weight."""
    outputs, inputs = _shape(node.args[1])
    flops = 2 * math.prod(_shape(node)) * inputs
    yield (_reading(node, 1, 0, flops, inputs, outputs),)


def _convolution(node: fx.Node) -> Readings:
    transposed, groups = bool(node.args[6]), int(node.args[8])  # type: ignore[arg-type]
    weight = _shape(node.args[1])
    places = _shape(node.args[0] if transposed else node)
    flops = 2 * places[0] * math.prod(places[2:]) * math.prod(weight)
    first, second, *kernel = weight
    inputs, outputs = (first, second * groups) if transposed else (second * groups, first)
    yield (
        Reading(
            node.args[1],  # type: ignore[arg-type]
            0,
            "conv_transpose" if transposed else "conv",
            flops,
            inputs,
            outputs,
            tuple(kernel),
            groups,
        ),
    )


def _grouped(node: fx.Node) -> Readings:
    """Rows, sorted by group, times one matrix per group."""
    first, second = _shape(node.args[0]), _shape(node.args[1])
    rows, inner, outer = first[-2], first[-1], second[-1]
    is_stacked = len(first) == len(second) == 3
    flops = 2 * (first[0] if is_stacked else 1) * rows * inner * outer
    kind = "grouped_matmul"
    yield (
        _reading(node, 1, 0, flops, inner, outer, kind, math.prod(second[:-2])),
        _reading(node, 0, 1, flops, inner, rows, kind, math.prod(first[:-2])),
    )


def _trilinear(node: fx.Node) -> Readings:
    """Two inputs, of `nn.Bilinear`: one matrix between them per output."""
    outputs, *inputs = _shape(node.args[1])
    rows = math.prod(_shape(node)) // max(1, outputs)
    flops = 2 * rows * outputs * math.prod(inputs)
    yield (_reading(node, 1, 0, flops, math.prod(inputs), outputs, "bilinear"),)


def _recurrent(*positions: int) -> Callable[[fx.Node], Readings]:
    """Layers of LSTM, GRU and RNN: every matrix meets every row of the sequence."""

    def read(node: fx.Node) -> Readings:
        sequence = _shape(node.args[0])
        rows = math.prod(sequence[:-1])
        for position in positions:
            argument = node.args[position]
            for weight in argument if isinstance(argument, (list, tuple)) else (argument,):
                if isinstance(weight, fx.Node) and len(_shape(weight)) == 2:
                    outputs, inputs = _shape(weight)
                    flops = 2 * rows * inputs * outputs
                    yield (Reading(weight, 0, "recurrent", flops, inputs, outputs),)

    return read


def _attention(node: fx.Node) -> Readings:
    """Keys and values: where they are learned, two layers with a softmax between them."""
    query, keys, values = (_shape(argument) for argument in node.args[:3])
    rows = math.prod(query[:-1])
    for place, inputs, outputs in ((1, keys[-1], keys[-2]), (2, values[-2], values[-1])):
        copies = math.prod(_shape(node.args[place])[:-2])
        flops = 2 * rows * inputs * outputs
        yield (_reading(node, place, 0, flops, inputs, outputs, "attention", copies),)


def _distance(node: fx.Node) -> Readings:
    """Distances to the rows of a codebook cost a product with it."""
    first, second = _shape(node.args[0]), _shape(node.args[1])
    flops = 2 * math.prod(_shape(node)) * first[-1]
    yield (
        _reading(node, 1, 0, flops, first[-1], second[-2], "distance"),
        _reading(node, 0, 1, flops, first[-1], first[-2], "distance"),
    )


def _reading(
    node: fx.Node,
    weight: int,
    activation: int,
    flops: int,
    inputs: int,
    outputs: int,
    kind: str = "matmul",
    copies: int = 1,
) -> Reading:
    operand: fx.Node = node.args[weight]  # type: ignore[assignment]
    return Reading(operand, activation, kind, flops, inputs, outputs, copies=max(1, copies))


def _shape(node: object) -> tuple[int, ...]:
    return tuple(node.meta["shape"])  # type: ignore[attr-defined]


_OPERATIONS: dict[str, Callable[[fx.Node], Readings]] = {
    "aten.mm.default": _matmul(0, 1),
    "aten.bmm.default": _matmul(0, 1),
    "aten.matmul.default": _matmul(0, 1),
    "aten.mv.default": _matmul(0, 1),
    "aten.dot.default": _matmul(0, 1),
    "aten.vdot.default": _matmul(0, 1),
    "aten._int_mm.default": _matmul(0, 1),
    "aten._scaled_mm.default": _matmul(0, 1),
    "aten.addmm.default": _matmul(1, 2),
    "aten.addmv.default": _matmul(1, 2),
    "aten.addbmm.default": _matmul(1, 2),
    "aten.baddbmm.default": _matmul(1, 2),
    "aten._addmm_activation.default": _matmul(1, 2),
    "aten.linear.default": _linear,
    "aten.convolution.default": _convolution,
    "aten._trilinear.default": _trilinear,
    "aten._grouped_mm.default": _grouped,
    "transformers.grouped_mm_fallback.default": _grouped,
    "aten.mkldnn_rnn_layer.default": _recurrent(1, 2),
    "aten._cudnn_rnn.default": _recurrent(1),
    "aten.miopen_rnn.default": _recurrent(1),
    **{
        f"aten.{name}.{form}": _recurrent(position)
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
        for form, position in (("input", 2), ("data", 3))
    },
    **{
        f"aten._scaled_dot_product_{name}.default": _attention
        for name in (
            "flash_attention_for_cpu",
            "flash_attention",
            "efficient_attention",
            "cudnn_attention",
            "fused_attention_overrideable",
        )
    },
    "aten.scaled_dot_product_attention.default": _attention,
    "aten._cdist_forward.default": _distance,
    "aten._euclidean_dist.default": _distance,
}
"""Operation by name -> the products it makes. An operation that is not here and multiplies by a
parameter is counted as unseen; add a line to name it."""
