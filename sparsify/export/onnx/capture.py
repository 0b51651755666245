"""From a torch model to ONNX's in-memory form, through torch's exporter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ..inputs import Axes, Inputs
from ..sandbox import sandbox
from .ops import DOMAIN, TABLES, OpTable
from .transformers import Borrowed, borrowed

if TYPE_CHECKING:
    from onnxscript import ir

__all__ = ["Captured", "capture"]


@dataclass(frozen=True)
class Captured:
    """A captured model.

    Args:
        graph: in the form of onnxscript's ir; its weights are those of the torch model, no copies.
        program: what torch captured; values of `graph` are named like its nodes.
        renamed: the node of `program` by output of `graph`.
    """

    graph: ir.Model
    program: torch.export.ExportedProgram
    renamed: dict[str, str]


def capture(
    model: nn.Module, inputs: Inputs, axes: Axes, outputs: dict[str, Tensor], opset: int
) -> Captured:
    """Export a model with one opaque node for each fabric, bodies attached.

    Args:
        model: the torch model.
        inputs: example inputs; labelled axes must be 2 or longer, for 0 and 1 count as fixed.
        axes: labels of axes that may change size.
        outputs: what the model gives for them, by the names that the file shall use.
        opset: version of ONNX's default domain.

    Raises:
        ModelError: torch's exporter cannot take the model.
    """
    with sandbox(model):
        table, program = _exported(model, inputs, axes, opset)
    if program is None or program.exported_program is None:
        raise ModelError(f"torch's ONNX exporter gave nothing for {type(model).__name__}.")
    graph = program.model
    renamed = _rename(graph, list(inputs.tensors()), list(outputs))
    _label_axes(graph, axes)
    _name_nodes(graph)
    _type_outputs(graph)
    _attach_bodies(graph, table, opset)
    _attach_tables(graph, table)
    return Captured(graph, program.exported_program, renamed)


def _exported(
    model: nn.Module, inputs: Inputs, axes: Axes, opset: int
) -> tuple[OpTable, torch.onnx.ONNXProgram | None]:
    """What torch's exporter gives, by itself or, where it fails, with the help of transformers.

    Raises:
        ModelError: it fails either way, for reasons that the message holds.
    """

    def attempt(help: Borrowed) -> tuple[OpTable, torch.onnx.ONNXProgram | None]:
        table = OpTable()
        program = torch.onnx.export(
            model,
            inputs.args,
            kwargs=inputs.kwargs,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            dynamic_shapes=inputs.dynamic_shapes(axes),
            custom_translation_table={**help.translations, **table.translations()},
        )
        if program is not None:
            help.repair(program)
        return table, program

    try:
        return attempt(Borrowed())
    except Exception as error:  # torch.onnx's own errors, and whatever the model raises in tracing
        first = error
    reason = f"torch's ONNX exporter cannot take {type(model).__name__}: {_reason(first)}"
    with borrowed(model) as help:
        if help is None:
            raise ModelError(reason) from first
        try:
            return attempt(help)
        except Exception as error:
            raise ModelError(f"{reason} With transformers' patches: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The first cause in one sentence: what torch puts around it fills screens."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split("\n\n")[0].split())
    hint = ""
    if "static shape" in text or "specialized" in text:
        found = re.search(r"inputs\['(\w+)'\]", text)
        name = found[1] if found else "input"
        hint = (
            " The model fixes an axis that should change size; fix it in the file too, with "
            f"dynamic={{{name!r}: {{}}}}, or give it another example size."
        )
    elif "data-dependent" in text:
        hint = " Its Python code decides on values of tensors, which a graph cannot do."
    return f"{type(error).__name__}: {text[:300]}{hint}"


def _rename(graph: ir.Model, inputs: list[str], outputs: list[str]) -> dict[str, str]:
    """Give inputs and outputs their public names, and clashing inner values other ones."""
    main = graph.graph
    if len(main.inputs) != len(inputs) or len(main.outputs) != len(outputs):
        raise ModelError(
            f"The exported graph has {len(main.inputs)} inputs and {len(main.outputs)} outputs, "
            f"the model {len(inputs)} and {len(outputs)}; only tensors can be exported."
        )
    public = {*inputs, *outputs}
    ends = {id(value) for value in (*main.inputs, *main.outputs)}
    for node in main.all_nodes():
        for value in node.outputs:
            if value.name in public and id(value) not in ends:
                value.name = f"{value.name}.inner"
    for value, name in zip(main.inputs, inputs, strict=True):
        value.name = name
    renamed = {}
    for value, name in zip(main.outputs, outputs, strict=True):
        renamed[name] = str(value.name)
        value.name = name
    return renamed


def _label_axes(graph: ir.Model, axes: Axes) -> None:
    """Put labels in place of torch's symbols (`s77`), in inputs and in what follows from them.

    Not left to torch: it gives up where a model has inputs that are no tensors, and takes two axes
    of one label for two sizes.
    """
    from onnxscript import ir

    labels: dict[str, str] = {}
    for value in graph.graph.inputs:
        for axis, label in axes.get(str(value.name), {}).items():
            dim = value.shape[axis] if value.shape is not None else None
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                labels.setdefault(str(dim.value), label)
    values = [*graph.graph.inputs]
    for node in graph.graph.all_nodes():
        values += node.outputs
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_labelled(dim, labels) for dim in value.shape])


def _labelled(dim: int | ir.SymbolicDim, labels: dict[str, str]) -> int | str | None:
    """A size whose symbols, alone or within an expression like `2*s77`, are labels."""
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    return re.sub(r"\w+", lambda symbol: labels.get(symbol[0], symbol[0]), str(dim.value))


def _name_nodes(graph: ir.Model) -> None:
    """Call our nodes like the layers that they come from."""
    seen: dict[str, int] = {}
    for node in graph.graph.all_nodes():
        if node.domain == DOMAIN:
            weight = next(value for value in node.inputs[1:] if value is not None)
            layer = str(weight.name).rsplit(".factors.", 1)[0]
            calls = seen[layer] = seen.get(layer, 0) + 1
            node.name = layer if calls == 1 else f"{layer}#{calls}"


def _type_outputs(graph: ir.Model) -> None:
    """Write down what our nodes give: onnxruntime 1.17 does not infer it for its custom ops."""
    for node in graph.graph.all_nodes():
        if node.domain == DOMAIN and node.inputs[0] is not None:
            node.outputs[0].type = node.outputs[0].type or node.inputs[0].type


def _attach_bodies(graph: ir.Model, table: OpTable, opset: int) -> None:
    from onnxscript import ir

    used = {node.op_type for node in graph.graph.all_nodes() if node.domain == DOMAIN}
    for proto in table.functions(used, opset):
        function = ir.serde.deserialize_function(proto)
        graph.functions[function.identifier()] = function


def _attach_tables(graph: ir.Model, table: OpTable) -> None:
    """Compute index tables before all else, and hand them to the nodes that read them."""
    from onnx import helper
    from onnxscript import ir

    main = graph.graph
    indices: dict[int, ir.Value] = {}
    for node in list(main.all_nodes()):
        if node.domain != DOMAIN or TABLES not in node.attributes:
            continue
        number = node.attributes.pop(TABLES).as_int()
        if number not in indices:
            proto = helper.make_graph(table.write_tables(number).nodes, "tables", [], [])
            part = ir.serde.deserialize_graph(proto)
            nodes = list(part)
            part.remove(nodes)
            main.insert_before(main[0], nodes)
            indices[number] = nodes[-1].outputs[0]
        node.replace_input_with(1, indices[number])
