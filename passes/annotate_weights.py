"""Which nodes are weight operations, on which parameter, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx

from .base import Pass, PassResult, Program

__all__ = ["VIEWS", "AnnotateWeights", "WeightUse"]

aten = torch.ops.aten


@dataclass(frozen=True)
class WeightUse:
    """How a node uses a parameter as the weight of a dense operation; `node.meta["weight"]`.

    Args:
        parameter: path of the parameter, or of the first of several that the weight is made of.
        direct: whether the operand is that very parameter, seen through views and casts at most.
        activation: position of the other operand among the node's arguments.
        flops: of this call, a multiply-add counted as two.
        kind: "matmul", "conv" or "conv_transpose".
    """

    parameter: str
    direct: bool
    activation: int
    flops: int
    kind: str


# The same values in another arrangement or precision.
VIEWS = {
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.expand.default,
    aten.alias.default,
    aten.detach.default,
    aten._to_copy.default,
    aten.clone.default,
}


def _matmul_flops(node: fx.Node, left: int) -> int:
    *_, inner = _shape(node.args[left])
    return 2 * math.prod(_shape(node)) * inner


def _conv_flops(node: fx.Node) -> int:
    transposed = bool(node.args[6])
    places = _shape(node.args[0] if transposed else node)
    weight = _shape(node.args[1])
    return 2 * places[0] * math.prod(places[2:]) * math.prod(weight)


# Operation -> positions of its two operands, and its FLOPs.
_MATMULS: dict[Callable[..., object], tuple[int, int]] = {
    aten.mm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.bmm.default: (0, 1),
    aten.baddbmm.default: (1, 2),
    aten.linear.default: (0, 1),
}


@dataclass(frozen=True)
class AnnotateWeights(Pass):
    """Mark every product and convolution that has a parameter as an operand.

    Requires: a recorded graph (a walked one is left alone). Ensures: `node.meta["weight"]` is a
    `WeightUse` on each such node; the graph itself is unchanged.
    Before: addmm = aten.addmm(bias, x, t)      # t = aten.t(fc1.weight)
    After:  addmm = aten.addmm(bias, x, t)      # meta["weight"] = WeightUse("fc1.weight", ...)
    """

    name: ClassVar[str] = "annotate-weights"

    def run(self, program: Program) -> PassResult:
        """Follow parameters through the graph in the order of execution."""
        if not program.recorded:
            return PassResult(program, False, "no recorded graph to annotate")
        sources: dict[fx.Node, tuple[str, bool]] = {}
        count = 0
        for node in program.graph.nodes:
            source = _source(node, sources)
            if source is not None:
                sources[node] = source
            use = _weight_use(node, sources)
            if use is not None:
                node.meta["weight"] = use
                count += 1
        return PassResult(replace(program, annotated=True), True, f"{count} weight operations")


def _source(node: fx.Node, sources: dict[fx.Node, tuple[str, bool]]) -> tuple[str, bool] | None:
    """The parameter that a node's value is made of, and whether it is that very parameter."""
    if node.op == "get_attr":
        return (str(node.target), True) if node.meta.get("parameter") else None
    inputs = node.all_input_nodes
    if node.op != "call_function" or not inputs or not all(i in sources for i in inputs):
        return None
    parameter, direct = sources[inputs[0]]
    return parameter, direct and node.target in VIEWS


def _weight_use(node: fx.Node, sources: dict[fx.Node, tuple[str, bool]]) -> WeightUse | None:
    if node.op != "call_function" or node in sources:
        return None
    if node.target is aten.convolution.default:
        weight = node.args[1]
        if weight not in sources:
            return None
        kind = "conv_transpose" if node.args[6] else "conv"
        return WeightUse(*sources[weight], 0, _conv_flops(node), kind)  # type: ignore[index]
    positions = _MATMULS.get(node.target)  # type: ignore[arg-type]
    for position, other in (positions, positions[::-1]) if positions else ():
        operand = node.args[position]
        if operand in sources:
            flops = _matmul_flops(node, positions[0])  # type: ignore[index]
            return WeightUse(*sources[operand], other, flops, "matmul")  # type: ignore[index]
    return None


def _shape(node: object) -> tuple[int, ...]:
    return tuple(node.meta["shape"])  # type: ignore[attr-defined]
