"""The sizes of the values of an ONNX graph, as far as onnx can infer them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["Shape", "shapes_of"]

Shape = tuple[int | None, ...]
"""None for a size that may differ."""


def shapes_of(
    model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Shape]:
    """The sizes of the values of a graph, as far as onnx can tell.

    Args:
        model: the model; the values of large tensors are not needed.
        sizes: of the inputs, where others than the model's own shall hold.

    Returns:
        Sizes by name; None for those that may differ, no entry where not even their number is
        known.
    """
    import onnx

    light = copy.deepcopy(model)
    if sizes is not None:
        _fix_inputs(light.graph, sizes)
    try:
        light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # what cannot be inferred is not known
        return {}
    values = (*light.graph.input, *light.graph.value_info, *light.graph.output)
    return {value.name: shape for value in values if (shape := _shape(value)) is not None}


def _fix_inputs(graph: onnx.GraphProto, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Give inputs fixed sizes, and forget what was noted for sizes that may differ."""
    for value in [v for v in graph.value_info if None in (_shape(v) or (None,))]:
        graph.value_info.remove(value)
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, sizes.get(value.name, ()), strict=False):
            dim.dim_value = size


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
