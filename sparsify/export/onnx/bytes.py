"""Writing a graph whose values lie beside it: into the file, or from 1.8 GB on into a side file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...frontend.onnx.file import main_tensors
from .write import EXTERNAL_DATA_BYTES

if TYPE_CHECKING:
    import onnx

__all__ = ["side_file", "write_values"]

_ALIGNMENT = 4096  # runtimes map pages
Bytes = npt.NDArray[np.uint8]


def side_file(path: Path) -> Path:
    """Where the values go that are too large for one file."""
    return path.with_name(f"{path.name}.data")


def write_values(proto: onnx.ModelProto, values: Mapping[str, Bytes], path: Path) -> None:
    """Write a model; values that are mapped from other files go through page by page.

    Args:
        proto: the model without these values; not changed.
        values: the bytes of tensors, by initializer or output of a Constant node.
        path: the file to write.
    """
    if sum(data.nbytes for data in values.values()) <= EXTERNAL_DATA_BYTES:
        path.write_bytes(_filled(proto, values).SerializeToString())
        return
    beside = side_file(path)
    held = {tensor.name for tensor in proto.graph.initializer}
    weights = {name: values[name] for name in values.keys() & held}
    # Runtimes take the values of Constant nodes from the file alone.
    light = _filled(proto, {name: values[name] for name in values.keys() - weights.keys()})
    with beside.open("wb") as file:
        for tensor in light.graph.initializer:
            data = weights.get(tensor.name)
            if data is None:
                continue
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            tensor.data_location = tensor.EXTERNAL
            place = {"location": beside.name, "offset": file.tell(), "length": data.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(data.data)
    path.write_bytes(light.SerializeToString())


def _filled(proto: onnx.ModelProto, values: Mapping[str, Bytes]) -> onnx.ModelProto:
    """A copy of a model with its values in it."""
    whole = copy.deepcopy(proto)
    for name, tensor in main_tensors(whole.graph):
        if name in values:
            tensor.raw_data = values[name].tobytes()
    return whole
