"""The graph of an ONNX file in the form that the passes take: layers called, all else opaque."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, fx

from ..nn import dense
from ..passes import Program
from ..site import Site
from .onnx_edges import captured
from .onnx_inputs import invented, model_inputs
from .onnx_shapes import Shape, shapes_of

if TYPE_CHECKING:
    import onnx

    from .onnx_model import OnnxModel

__all__ = ["Operator", "program"]

aten = torch.ops.aten

# Operators that join signals, in the words of the passes.
_JOINS = {
    "Add": aten.add.Tensor,
    "Sub": aten.sub.Tensor,
    "Mul": aten.mul.Tensor,
    "Sum": aten.add.Tensor,
    "Concat": aten.cat.default,
}


@dataclass(frozen=True)
class Operator:
    """An operator of ONNX in a graph of fx, for its edges alone."""

    name: str

    @property
    def __name__(self) -> str:
        """What fx names its nodes by."""
        return self.name.lower()

    def __call__(self, *values: Any) -> NoReturn:
        """Not to be run.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self.name} runs in onnxruntime.")


def program(model: OnnxModel, inputs: Mapping[str, Tensor] | None = None) -> Program:
    """The program of a model, with the rows of its sites where shape inference tells them.

    Args:
        model: the model.
        inputs: whose sizes hold for axes that the file leaves open; invented ones where None.
    """
    file, reading = model.source, model.reading
    known = invented(file) if inputs is None else inputs
    shapes = shapes_of(file.proto, {name: tuple(value.shape) for name, value in known.items()})
    graph = fx.Graph()
    values: dict[str, fx.Node] = {
        value.name: graph.placeholder(f"input_{position}")
        for position, value in enumerate(model_inputs(file.proto))
    }
    for node in file.proto.graph.node:
        names = (*node.input, *captured(node))
        before = tuple(dict.fromkeys(values[name] for name in names if name in values))
        sites = _sites(model, node, shapes)
        if not before and not sites:
            continue  # a constant
        path = reading.paths.get(node.output[0]) if node.output else None
        if path is not None:
            made = graph.create_node("call_module", path, before)
        else:
            made = graph.call_function(_target(node), before)
        made.meta["sites"] = sites
        values.update({name: made for name in node.output if name})
    outputs = [values[o.name] for o in file.proto.graph.output if o.name in values]
    graph.output(tuple(outputs))
    return Program(model, model, graph, recorded=True)


def _target(node: onnx.NodeProto) -> Callable[..., Any]:
    return _JOINS.get(node.op_type) or Operator(node.op_type)


def _sites(model: OnnxModel, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> tuple[Site, ...]:
    """The sites of a node: that of its layer, or those that are only listed."""
    output = node.output[0] if node.output else ""
    path = model.reading.paths.get(output)
    rows, in_rows = shapes.get(output), shapes.get(node.input[0]) if node.input else None
    if path is None:
        return tuple(
            replace(site, rows=_count(rows, site.out_features))
            for site in model.reading.listed.get(output, ())
        )
    layer = dense(model.get_submodule(path))
    if layer is None:
        return ()  # a fabric already
    site = Site(path, layer.kind, layer.in_features, layer.out_features, layer.kernel, layer.groups)
    site = replace(site, rows=_count(rows, site.out_features))
    if layer.kernel and _count(in_rows, site.in_features) != site.rows:
        site = replace(site, in_rows=_count(in_rows, site.in_features))
    why = model.reading.kept.get(output)
    return (site.kept(why) if why else site,)


def _count(shape: Shape | None, features: int) -> int | None:
    """Rows of a value: of features each; None where its sizes are not known."""
    if shape is None or None in shape:
        return None
    return math.prod(size for size in shape if size is not None) // max(1, features)
