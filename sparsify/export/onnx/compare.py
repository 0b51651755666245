"""Proof that a rewritten ONNX file computes what it should, by another way.

The other way is the original graph, untouched but for the weights: where a fabric stands, its dense
matrix, which torch makes, takes the place of the weight. Whatever went wrong in folding constants,
raising the opset, rewriting nodes, bodies or tables shows as a difference.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import ConfigError, ModelError, VerificationError
from ...frontend.onnx.inputs import SCALES, batch_axes, invented
from ...nn import FabricLayer
from ...onnx import session
from ...verify import Difference, Report, difference
from .bytes import write_values
from .first import first_layer
from .nodes import bytes_of, element_type
from .run import run_session, silent

if TYPE_CHECKING:
    import onnxruntime

    from ...frontend.onnx.model import OnnxModel

__all__ = ["compare_rewritten"]

logger = logging.getLogger(__name__)

_BATCHES = (1, 3)

Inputs = dict[str, Tensor]


def compare_rewritten(model: OnnxModel, path: Path) -> Report:
    """Compare a file with the original graph, at two batch sizes where it leaves them open.

    Args:
        model: what was written.
        path: the file; others are written beside it.

    Raises:
        ConfigError: the model does not run on inputs invented for it.
        ModelError: onnxruntime cannot load or run the file.
        VerificationError: they differ.
    """
    runtime = session(path, native=False)
    other = path.with_name("reference.onnx")
    _write_reference(model, other)
    truth = session(other, silent(), native=False)
    _check_interface(runtime, truth)
    differences: list[Difference] = []
    inputs_of: dict[int, Inputs] = {}
    for batch, inputs, expected in _runs(model, truth):
        actual = run_session(runtime, inputs)
        inputs_of[batch] = inputs
        differences += [
            difference(batch, name, actual[name], torch.from_numpy(value))
            for name, value in expected.items()
            if hasattr(value, "dtype") and value.dtype.kind in "fiub"
        ]
    report = Report(tuple(differences))
    if differences and not report.passed:
        worst = report.worst
        raise VerificationError(
            "The rewritten file differs from the original with its fabrics as dense matrices: "
            f"output {worst.output!r} is off by {worst.max_abs:.1e} (allowed "
            f"{worst.tolerance:.0e}). Nothing was written. "
            + first_layer(model, path, other, inputs_of[worst.batch])
        )
    return report


def _write_reference(model: OnnxModel, path: Path) -> None:
    """The original graph with dense matrices in the place of fabrics."""
    from onnx import TensorProto, helper

    proto = copy.deepcopy(model.source.original)
    values = dict(model.source.values)
    for node in proto.graph.node:
        path_of_layer = model.reading.paths.get(node.output[0]) if node.output else None
        layer = None if path_of_layer is None else model.get_submodule(path_of_layer)
        if not isinstance(layer, FabricLayer):
            continue
        with torch.no_grad():
            weight = layer.weight
        if node.op_type == "MatMul":
            weight = weight.T
        elif node.op_type in ("Gemm", "FusedMatMul"):
            changed = {"alpha": 1.0, "transB": 1}
            kept = [entry for entry in node.attribute if entry.name not in changed]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.extend(helper.make_attribute(*pair) for pair in changed.items())
        name = f"dense.{node.output[0]}"
        held = TensorProto(name=name, dims=list(weight.shape))
        held.data_type = element_type(weight.dtype)
        proto.graph.initializer.append(held)
        if proto.ir_version < 4:  # the format listed every initializer as an input
            value = helper.make_tensor_value_info(name, held.data_type, list(weight.shape))
            proto.graph.input.append(value)
        values[name] = bytes_of(weight)
        node.input[1] = name
    write_values(proto, values, path)


def _check_interface(
    runtime: onnxruntime.InferenceSession, truth: onnxruntime.InferenceSession
) -> None:
    """Inputs and outputs have the names, types and shapes that they had."""
    for side in ("get_inputs", "get_outputs"):
        now, before = (
            [(entry.name, entry.type, _sizes(entry.shape)) for entry in getattr(one, side)()]
            for one in (runtime, truth)
        )
        if now != before:
            raise VerificationError(
                f"The rewritten file has other {side[4:]} than the original: {now} instead of "
                f"{before}. Nothing was written."
            )


def _sizes(shape: list[Any]) -> list[Any]:
    return [size if isinstance(size, int) else None for size in shape]


def _runs(
    model: OnnxModel, truth: onnxruntime.InferenceSession
) -> Iterator[tuple[int, Inputs, dict[str, Any]]]:
    """Batch sizes, inputs and what the original gives for them.

    Files that say that an axis is open are not always right. So a further batch is taken only where
    the original itself runs on it.

    Raises:
        ConfigError: the original runs on nothing that was invented for it.
        ModelError: or not on the inputs that were given.
    """
    axes = batch_axes(model.source.original)
    if model.example_inputs is not None:
        inputs = model.example_inputs
        scale = None
        yield 0, inputs, run_session(truth, inputs)
    else:
        scale, inputs = _first_that_runs(model, truth)
        yield _BATCHES[0] if axes else 0, inputs, run_session(truth, inputs)
    if not axes:
        return
    if scale is not None:
        others = invented(model.source, _BATCHES[1], scale)
    else:
        others = {name: _doubled(value, axes.get(name, ())) for name, value in inputs.items()}
    try:
        expected = run_session(truth, others)
    except ModelError as error:
        logger.debug("one batch only: %s", error)
        return
    first = next(iter(axes))
    yield others[first].shape[axes[first][0]], others, expected


def _doubled(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Twice the rows, the second half in another order along the last axis."""
    for axis in axes:
        again = tensor if axis == tensor.dim() - 1 else tensor.roll(1, -1)
        tensor = torch.cat([tensor, again], axis)
    return tensor


def _first_that_runs(
    model: OnnxModel, truth: onnxruntime.InferenceSession
) -> tuple[tuple[int, int], Inputs]:
    """Sizes of open axes that the original runs on, and inputs of these sizes.

    Raises:
        ConfigError: none was found.
    """
    reasons = []
    for scale in SCALES:
        inputs = invented(model.source, _BATCHES[0], scale)
        reason = _failure(truth, inputs)
        if not reason:
            return scale, inputs
        reasons.append(reason)
    raise ConfigError(
        f"The model cannot be checked on inputs invented for it: {reasons[0]} Give some that it "
        "runs on: sp.onnx.read(path, example_inputs), or --input on the command line."
    )


def _failure(runtime: onnxruntime.InferenceSession, inputs: Inputs) -> str:
    try:
        run_session(runtime, inputs)
    except ModelError as error:
        return str(error)
    return ""
