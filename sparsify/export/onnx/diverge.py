"""Finding the first layer where an exported file and the captured program part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from ... import verify
from ...onnx import session
from ..inputs import Inputs
from ..sandbox import sandbox

if TYPE_CHECKING:
    from .capture import Captured

__all__ = ["first_divergence"]


def first_divergence(captured: Captured, model: nn.Module, path: Path, inputs: Inputs) -> str:
    """Name the first layer whose output in the file is not what the captured program computes.

    Values of the file carry the names of the program's nodes, so both are run and compared node by
    node, in the order of the program.

    Args:
        captured: the program and its graph.
        model: the torch model, for its mode.
        path: the file; a copy with more outputs is written beside it.
        inputs: inputs on which file and model differ.

    Returns:
        A sentence.
    """
    try:
        return _search(captured, model, path, inputs)
    except Exception as error:  # this search must not hide the failure that it explains
        return f"The first diverging layer could not be found ({type(error).__name__}: {error})."


def _search(captured: Captured, model: nn.Module, path: Path, inputs: Inputs) -> str:
    nodes = {node.name for node in captured.program.graph_module.graph.nodes}
    probe, names = _with_all_outputs(path, nodes, captured.renamed)
    try:
        values = verify.run_file(session(probe, native=False), inputs, names)
    finally:
        probe.unlink(missing_ok=True)
    found = {captured.renamed.get(name, name): value for name, value in values.items()}
    agreed = ""
    with sandbox(model):
        for node, expected in _trace(captured.program, inputs):
            if node.name not in found:
                continue
            layer = _layer(node)
            difference = verify.difference(0, node.name, found[node.name], expected)
            if not difference.passed:
                before = f"; the last one that agrees is {agreed!r}" if agreed else ""
                return (
                    f"The first diverging layer is {layer!r} (operation {node.name}, error "
                    f"{difference.max_abs:.1e}){before}."
                )
            agreed = layer
    return (
        "Each operation of the file agrees with the captured program, so the model itself took "
        "another way when it was captured: look for Python code that depends on values or sizes."
    )


def _with_all_outputs(
    path: Path, nodes: set[str], original: dict[str, str]
) -> tuple[Path, list[str]]:
    """Copy a file with every value that the program names as an output."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    names = [
        name
        for node in model.graph.node
        for name in node.output
        if original.get(name, name) in nodes
    ]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    probe = path.with_name("probe.onnx")
    onnx.save(model, probe)
    return probe, names


def _trace(
    program: torch.export.ExportedProgram, inputs: Inputs
) -> Iterator[tuple[fx.Node, Tensor]]:
    """The tensors that the nodes of a program compute, in order."""
    user = iter(pytree.tree_leaves((inputs.args, inputs.kwargs)))
    values: dict[fx.Node, Any] = {}
    placeholders = iter(program.graph_signature.input_specs)
    interpreter = fx.Interpreter(program.graph_module, garbage_collect_values=False)
    for node in program.graph_module.graph.nodes:
        if node.op == "placeholder":
            spec = next(placeholders)
            if spec.kind is InputKind.USER_INPUT:
                values[node] = next(user)
            elif isinstance(spec.arg, ConstantArgument):
                values[node] = spec.arg.value
            else:
                held = program.state_dict | program.constants
                values[node] = held[spec.target]
        elif node.op != "output":
            interpreter.env = values
            values[node] = interpreter.run_node(node)
            if isinstance(values[node], Tensor):
                yield node, values[node]


def _layer(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return str(path) or str(node.target)
