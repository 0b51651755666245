"""ONNX models of one fabric, written without torch's exporter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from sparsify.export.onnx.ops import DOMAIN, OpTable, structure
from sparsify.fabric import Fabric
from sparsify.ops.window import Window

__all__ = ["between_casts", "body_model", "typed"]

Array = npt.NDArray[Any]


def body_model(
    fabric: Fabric,
    factors: Sequence[Tensor | Array],
    rank: int,
    window: Window | None = None,
    bias: Array | None = None,
) -> onnx.ModelProto:
    """A model of one node and its body."""
    table = OpTable()
    has_bias = bias is not None
    name = table.name(fabric, window, has_bias)
    weights = [numpy_helper.from_array(np.asarray(f), f"w{i}") for i, f in enumerate(factors)]
    weights += [numpy_helper.from_array(bias, "bias")] if bias is not None else []
    kind = weights[0].data_type
    tables = table.tables(fabric)
    nodes = [] if tables is None else table.write_tables(tables).nodes
    indices = [output for node in nodes[-1:] for output in node.output]
    names = ["x", *indices, *(weight.name for weight in weights)]
    node = helper.make_node(
        name, names, ["y"], domain=DOMAIN, **structure(fabric, window, has_bias)
    )
    graph = helper.make_graph(
        [*nodes, node],
        "body",
        [helper.make_tensor_value_info("x", kind, [f"x{i}" for i in range(rank)])],
        [helper.make_tensor_value_info("y", kind, [f"y{i}" for i in range(rank)])],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    functions = table.functions({name}, 18)
    model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def typed(factors: Sequence[Tensor], kind: str) -> list[Array]:
    """Weights of a type, small enough that sums in half precision stay close."""
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else kind
    return [np.asarray(factor / 4).astype(dtype) for factor in factors]


def between_casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Float32 at both ends of a bfloat16 model, which numpy has no name for."""
    node = model.graph.node[-1]
    node.input[0], node.output[0] = "x_bfloat16", "y_bfloat16"
    last = onnx.NodeProto()
    last.CopyFrom(node)
    del model.graph.node[-1]
    casts = [
        helper.make_node("Cast", ["x"], ["x_bfloat16"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["y_bfloat16"], ["y"], to=TensorProto.FLOAT),
    ]
    model.graph.node.extend([casts[0], last, casts[1]])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    # onnxruntime 1.17 does not infer what custom ops give; the exporter writes it down as well.
    inner = helper.make_tensor_value_info("y_bfloat16", TensorProto.BFLOAT16, None)
    model.graph.value_info.append(inner)
    return model
