"""Inputs for ONNX files: those that a user gives, by name, and those that are invented.

A file says of its inputs their types and some of their sizes. That is enough to run most models:
numbers that select rows of a table stay below its length, masks let everything through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import ConfigError, ModelError, nearest
from .constants import Constants
from .edges import OnnxEdges, attributes
from .file import OnnxFile

if TYPE_CHECKING:
    import onnx

__all__ = ["SCALES", "batch_axes", "bound", "invented", "model_inputs"]

SCALES = ((16, 64), (128, 224), (8, 32), (1, 1))
"""Sizes to try for axes that the file leaves open: of sequences, of images."""

_DTYPES = {
    "FLOAT": torch.float32,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "DOUBLE": torch.float64,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT16": torch.int16,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}
_PASSING = ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Slice")


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller has to give: those without a default."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in held]


def bound(model: onnx.ModelProto, example_inputs: Any) -> dict[str, Tensor]:
    """Example inputs in any form by the names of the file.

    Args:
        model: the model.
        example_inputs: a tensor, a tuple in the order of the file, or a dict by name.

    Raises:
        ConfigError: too many or too few, of another name, type or number of axes.
    """
    names = [value.name for value in model_inputs(model)]
    if isinstance(example_inputs, Tensor):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, Mapping):
        given = dict(example_inputs)
    elif isinstance(example_inputs, tuple | list):
        given = dict(zip(names, example_inputs, strict=False))
        if len(example_inputs) != len(names):
            raise ConfigError(
                f"The model takes {len(names)} inputs ({', '.join(names)}); got "
                f"{len(example_inputs)}."
            )
    else:
        raise ConfigError(
            "example_inputs must be a tuple of positional inputs, a dict of keyword inputs or a "
            f"tensor; got {type(example_inputs).__name__}."
        )
    for name in (*given, *names):
        if name not in names or name not in given:
            raise ConfigError(
                f"The model takes the inputs {', '.join(names)}; got {', '.join(given)}."
                f"{nearest(name, names) if name not in names else ''}"
            )
    for value in model_inputs(model):
        _check_fits(value, given[value.name])
    return {name: given[name] for name in names}


def invented(
    file: OnnxFile, batch: int = 1, scale: tuple[int, int] = SCALES[0]
) -> dict[str, Tensor]:
    """Inputs that the model should be able to run on; the same ones each time.

    Args:
        file: the file.
        batch: size of axes that are open at the place of the first input's axis 0.
        scale: size of other open axes of sequences and of images.

    Raises:
        ModelError: an input is no tensor, or of a type that torch lacks.
    """
    labels = batch_axes(file.original)
    random = torch.Generator().manual_seed(0)
    sizes: dict[str, int] = {}
    inputs = {}
    for value in model_inputs(file.original):
        dtype = _dtype(value)
        shape = []
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_value"):
                shape.append(dim.dim_value)
                continue
            other = scale[1] if len(dims) in (4, 5) and axis > 1 else scale[0]
            size = batch if axis in labels.get(value.name, ()) else other
            shape.append(sizes.setdefault(dim.dim_param, size) if dim.dim_param else size)
        if dtype.is_floating_point:
            tensor = torch.randn(shape, generator=random)
        elif (limit := _limit(file, value.name)) is not None:
            tensor = torch.randint(0, limit, shape, generator=random)
        else:
            tensor = torch.ones(shape)
        is_mask = "mask" in value.name.lower()
        inputs[value.name] = (torch.ones(shape) if is_mask else tensor).to(dtype)
    return inputs


def batch_axes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The axes of each input that change with the batch: open, and at the place of axis 0.

    That is axis 0 of the first input that has it open, and all axes with the same label.
    """
    axes: dict[str, tuple[int, ...]] = {}
    label = ""
    for value in model_inputs(model):
        dims = value.type.tensor_type.shape.dim
        labels = [None if dim.HasField("dim_value") else dim.dim_param for dim in dims]
        label = label or (labels[0] or "" if labels else "")
        found = [axis for axis, other in enumerate(labels) if label and other == label]
        if not found and labels and labels[0] == "":
            found = [0]
        if found:
            axes[value.name] = tuple(found)
    return axes


def _dtype(value: onnx.ValueInfoProto) -> torch.dtype:
    from onnx import TensorProto

    if not value.type.HasField("tensor_type"):
        raise ModelError(f"The input {value.name!r} is no tensor; such models cannot be run here.")
    name = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if name not in _DTYPES:
        raise ModelError(f"The input {value.name!r} is of type {name}, which torch lacks.")
    return _DTYPES[name]


def _check_fits(value: onnx.ValueInfoProto, given: object) -> None:
    wanted = [
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
        for d in value.type.tensor_type.shape.dim
    ]
    fits = isinstance(given, Tensor) and given.dtype == _dtype(value)
    if isinstance(given, Tensor) and value.type.tensor_type.HasField("shape"):
        fits = fits and given.dim() == len(wanted)
        pairs = zip(given.shape, wanted, strict=False)
        fits = fits and all(isinstance(w, str) or s == w for s, w in pairs)
    if not fits:
        got = type(given).__name__
        if isinstance(given, Tensor):
            got = f"{given.dtype} {list(given.shape)}".replace("torch.", "")
        kind = str(_dtype(value)).removeprefix("torch.")
        raise ConfigError(f"The input {value.name!r} is {kind} {wanted} in the model; got {got}.")


def _limit(file: OnnxFile, name: str) -> int | None:
    """The length of the shortest table that an input selects rows of; None where of none."""
    edges = OnnxEdges(file.proto.graph)
    constants = Constants(file, edges)
    limits = list(_tables(edges, constants, name, 4))
    return min(limits, default=None)


def _tables(edges: OnnxEdges, constants: Constants, name: str, depth: int) -> Iterator[int]:
    for node in edges.readers(name):
        if node.op_type == "Gather" and node.input[1] == name:
            shape = constants.shape(node.input[0])
            if shape and math.prod(shape):
                yield shape[attributes(node).get("axis", 0)]
        elif depth and node.op_type in _PASSING and node.input[0] == name:
            yield from _tables(edges, constants, node.output[0], depth - 1)
