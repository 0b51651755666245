"""The graph of an ONNX file in the form that the passes take: layers called, all else opaque."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import fx

from ...nn import dense
from ...passes import Program
from ...passes.annotate_weights import Unseen
from ...site import Site
from .edges import captured
from .inputs import invented, model_inputs
from .shapes import Shape, shapes_of

if TYPE_CHECKING:
    import onnx

    from .model import OnnxModel

__all__ = ["Operator", "program"]

aten = torch.ops.aten

# Operators that join signals, in the words of the passes.
_JOINS = {
    "Add": aten.add.Tensor,
    "Sub": aten.sub.Tensor,
    "Mul": aten.mul.Tensor,
    "Sum": aten.add.Tensor,
    "Concat": aten.cat.default,
    "SkipLayerNormalization": aten.add.Tensor,
    "SkipSimplifiedLayerNormalization": aten.add.Tensor,
}


_KNOWN = ("", "ai.onnx", "ai.onnx.ml", "ai.sparsify", "com.microsoft")  # domains

_RECURRENT = ("LSTM", "GRU", "RNN")  # each row of the input meets the weights once


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


def program(model: OnnxModel) -> Program:
    """The program of a model, with the rows of its sites where shape inference tells them.

    Args:
        model: the model; sizes of its inputs that the file leaves open are those of its examples,
            or invented.
    """
    file, reading = model.source, model.reading
    shapes = _shapes(model)
    matrices = {t.name: tuple(t.dims) for t in file.proto.graph.initializer if len(t.dims) > 1}
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
        if not sites and (unseen := _unseen(node, matrices, shapes)):
            made.meta["unseen"] = unseen
        values.update({name: made for name in node.output if name})
    outputs = [values[o.name] for o in file.proto.graph.output if o.name in values]
    graph.output(tuple(outputs))
    return Program(model, model, graph, recorded=True)


def _shapes(model: OnnxModel) -> dict[str, Shape]:
    """The sizes that values have in one run: inferred, or seen in a run where that fails.

    Where the file computes its sizes, as transformers do for their heads, onnx cannot follow it.
    """
    from ...export.onnx.run import seen_shapes

    file, reading = model.source, model.reading
    inputs = model.example_inputs or invented(file)
    shapes = shapes_of(file.proto, {name: tuple(value.shape) for name, value in inputs.items()})
    names = [*reading.products, *(p.x for p in reading.products.values())]
    for node in file.proto.graph.node:
        if node.output and node.output[0] in reading.listed:
            names += [node.output[0], node.input[0]]
    unknown = [name for name in dict.fromkeys(names) if None in shapes.get(name, (None,))]
    return shapes | seen_shapes(file, inputs, unknown) if unknown else shapes


def _unseen(
    node: onnx.NodeProto, matrices: Mapping[str, tuple[int, ...]], shapes: Mapping[str, Shape]
) -> Unseen | None:
    """An operator of somebody else's that reads a constant matrix."""
    read = [(math.prod(matrices[name]), name) for name in node.input if name in matrices]
    if node.domain in _KNOWN or not read:
        return None
    size, name = max(read)
    beside = (name for name in (*node.output, *node.input) if name not in matrices)
    shape = next((shapes[name] for name in beside if name in shapes), ())
    rows = math.prod(axis or 1 for axis in shape[:-1])
    return Unseen(f"{node.domain}.{node.op_type}", name, 2 * rows * size)


def _target(node: onnx.NodeProto) -> Callable[..., Any]:
    return _JOINS.get(node.op_type) or Operator(node.op_type)


def _sites(model: OnnxModel, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> tuple[Site, ...]:
    """The sites of a node: that of its layer, or those that are only listed."""
    output = node.output[0] if node.output else ""
    path = model.reading.paths.get(output)
    rows, in_rows = shapes.get(output), shapes.get(node.input[0]) if node.input else None
    if node.op_type in _RECURRENT and in_rows is not None:
        width = in_rows[-1] or 1
        listed = model.reading.listed.get(output, ())
        return tuple(replace(site, rows=_count(in_rows, width)) for site in listed)
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
