"""Writing a captured graph: the same bytes for the same model, large weights beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...errors import ModelError
from ...version import package_version

if TYPE_CHECKING:
    from onnxscript import ir

__all__ = ["EXTERNAL_DATA_BYTES", "check_file", "notes", "write_graph"]

# Above this many bytes of weights they go into one side file: an ONNX file ends at 2 GB.
EXTERNAL_DATA_BYTES = 1_800_000_000
_SCHEMA = 1


def notes() -> dict[str, str]:
    """What every file that has our ops says of who wrote it."""
    return {"sparsify.schema": str(_SCHEMA), "sparsify.version": package_version()}


def write_graph(graph: ir.Model, path: Path, opset: int) -> None:
    """Write a graph, with weights in `path` + ".data" where they are too large for one file.

    Notes that torch leaves in a graph hold paths and differ between runs; they are dropped.

    Args:
        graph: the graph; its notes and versions are changed.
        path: the file to write.
        opset: its version of the default domain, from which the oldest file version follows that
            old runtimes read.
    """
    from onnx import helper
    from onnxscript import ir

    graph.producer_name, graph.producer_version = "sparsify", package_version()
    graph.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    graph.doc_string = graph.graph.doc_string = None
    _drop_notes(graph)
    graph.metadata_props.update({**notes(), "torch.version": torch.__version__})
    weights = [value.const_value for value in graph.graph.initializers.values()]
    size = sum(weight.nbytes for weight in weights if weight is not None)
    side_file = f"{path.name}.data" if size > EXTERNAL_DATA_BYTES else None
    ir.save(graph, path, external_data=side_file)


def check_file(path: Path, *, with_shapes: bool = True) -> None:
    """Let onnx's own checker look at a file.

    Args:
        path: the file.
        with_shapes: whether the sizes that it notes must be those that follow from its inputs.

    Raises:
        ModelError: it is not valid.
    """
    import onnx

    try:
        onnx.checker.check_model(path, full_check=with_shapes)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"The exported graph is not valid ONNX: {reason}") from error


def _drop_notes(graph: ir.Model) -> None:
    graph.metadata_props.clear()
    parts: list[ir.Graph | ir.Function] = [graph.graph, *graph.functions.values()]
    for part in parts:
        part.metadata_props.clear()
        for value in (*part.inputs, *part.outputs):
            value.metadata_props.clear()
        for node in part.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in graph.graph.initializers.values():
        value.metadata_props.clear()
