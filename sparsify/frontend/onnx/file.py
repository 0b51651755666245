"""Reading ONNX files: a light graph, and the values of its tensors beside it, mapped or moved once.

A graph is rewritten, checked and handed about without its values: those of large tensors lie in
memory of their own, of files beside the model in pages that the system reads when they are needed.
"""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import FileError, ModelError
from ...files import reading

if TYPE_CHECKING:
    import onnx

__all__ = ["OLDEST_OPSET", "OnnxFile", "main_tensors", "read_onnx"]

OLDEST_OPSET = 15
"""Of the default domain: what the bodies of our ops are written in."""

_LARGE = 1024  # bytes; smaller tensors may be shapes, which shape inference wants to see
_BITS = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8}
_FIRST_IR = 4  # before this version of the format every initializer was listed as an input too

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model as it was read; shared by all copies of what is made of it.

    Args:
        path: where it came from.
        proto: the model, its opset raised to `OLDEST_OPSET` where it was older; large tensors of
            the main graph without their values.
        original: the same as the file has it.
        values: the bytes of these tensors, by the name of the initializer or of the output of the
            Constant node.
        side_files: the files beside the model that hold values.
    """

    path: Path
    proto: onnx.ModelProto
    original: onnx.ModelProto
    values: dict[str, Bytes]
    side_files: tuple[Path, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxFile:
        """Nothing of it changes, so that copies share it."""
        return self

    @property
    def opset(self) -> int:
        """The version of the default domain."""
        return _opset(self.proto)


def read_onnx(path: str | os.PathLike[str]) -> OnnxFile:
    """Read a file and check that it is whole.

    Args:
        path: the file; weights in files beside it are mapped, not read.

    Raises:
        FileError: it, or a file of weights that it names, is missing.
        ModelError: it is no ONNX file, damaged, or of a version that cannot be converted.

    Example:
        >>> read_onnx("model.onnx").opset  # doctest: +SKIP
        18
    """
    path = Path(path)
    light, values, side_files = _separate(_parse(path), path)
    _check(path)
    return OnnxFile(path, _modern(light, path), light, values, side_files)


def main_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The initializers of a graph and the values of its Constant nodes, by name.

    Args:
        graph: the main graph of a model.
    """
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _parse(path: Path) -> onnx.ModelProto:
    import onnx

    if path.is_dir():
        raise FileError(f"{path} is a folder; give the path of an ONNX file.")
    with reading(path):
        data = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's exceptions differ between its versions
        raise ModelError(f"{path} is no ONNX file, or it is damaged ({error}).") from error
    if not model.graph.node or not _opset(model):
        raise ModelError(f"{path} is no ONNX file, or it is damaged (it has no graph).")
    ends = (*model.graph.input, *model.graph.output)
    labels = [dim.dim_param for value in ends for dim in value.type.tensor_type.shape.dim]
    if not all(isinstance(text, str) for text in (*labels, *(value.name for value in ends))):
        raise ModelError(f"{path} is damaged: a name in it is no text.")
    newest = onnx.defs.onnx_opset_version()
    if _opset(model) > newest:
        raise ModelError(
            f"{path} has opset {_opset(model)}; onnx {onnx.__version__} knows those up to "
            f"{newest}. Update onnx."
        )
    return model


def _check(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(os.fspath(path))
    except Exception as error:  # its own, and those of texts that are none
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} is not valid ONNX: {reason}") from error


def _opset(model: onnx.ModelProto) -> int:
    return max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)


def _separate(
    model: onnx.ModelProto, path: Path
) -> tuple[onnx.ModelProto, dict[str, Bytes], tuple[Path, ...]]:
    """The model without the values of its large tensors, and these."""
    import onnx

    values: dict[str, Bytes] = {}
    files: dict[Path, None] = {}
    for name, tensor in main_tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            file, values[name] = _mapped(tensor, path)
            files[file] = None
        elif len(tensor.raw_data) > _LARGE:
            values[name] = np.frombuffer(bytearray(tensor.raw_data), np.uint8)
        else:
            continue
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    for tensor in _inner_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            file, data = _mapped(tensor, path)
            files[file] = None
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = data.tobytes()
    # A message keeps the memory of what was taken out of it; its copy never had it.
    return copy.deepcopy(model), values, tuple(files)


def _inner_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The tensors of attributes, subgraphs, functions and sparse initializers."""
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer
                nodes.extend(graph.node)


def _mapped(tensor: onnx.TensorProto, path: Path) -> tuple[Path, Bytes]:
    """The bytes of a tensor in a file beside the model; only the pages that are used are read.

    Raises:
        FileError: there is no such file.
        ModelError: it lies elsewhere than in the model's folder or below, or is too short.
    """
    entry = {pair.key: pair.value for pair in tensor.external_data}
    location = entry.get("location", "")
    file = path.parent / location
    inside = os.path.realpath(path.parent)
    outside = Path(location).is_absolute() or ".." in Path(location).parts
    if not location or outside or file.is_symlink() or not _is_below(file, inside):
        raise ModelError(
            f"{path} keeps {tensor.name!r} in {location!r}; files of weights must lie in the "
            "folder of the model, and be no links."
        )
    if not file.is_file():
        raise FileError(f"{path} keeps its weights in {file}, which does not exist. Copy it there.")
    offset = _number(entry.get("offset", "0"), path)
    wanted = _bytes_of(tensor)
    length = _number(entry.get("length", str(wanted)), path)
    if length != wanted or offset + length > file.stat().st_size:
        raise ModelError(
            f"{path} is damaged: {tensor.name!r} takes {wanted} bytes; {file.name} has "
            f"{file.stat().st_size}, of which {length} from {offset} on are its own."
        )
    if not length:
        return file, np.empty(0, np.uint8)
    with reading(file):  # "c": what anyone writes into it stays in memory
        return file, np.memmap(file, np.uint8, "c", offset, (length,))


def _is_below(file: Path, folder: str) -> bool:
    return os.path.commonpath([os.path.realpath(file), folder]) == folder


def _number(text: str, path: Path) -> int:
    if not text.isdecimal():
        raise ModelError(f"{path} is damaged: {text!r} is no number of bytes.")
    return int(text)


def _bytes_of(tensor: onnx.TensorProto) -> int:
    kind = tensor.DataType.Name(tensor.data_type)
    digits = re.search(r"\d+", kind)  # INT64, FLOAT8E4M3FN, UINT4
    bits = int(digits[0]) if digits else _BITS.get(kind, 8)
    size: int = -(-math.prod(tensor.dims) * bits // 8)
    return size


def _modern(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in an opset that our bodies can be written in, and in a format that has bodies."""
    from onnx import version_converter

    light = copy.deepcopy(model)
    if light.ir_version < _FIRST_IR:
        names = {tensor.name for tensor in light.graph.initializer}
        inputs = [value for value in light.graph.input if value.name not in names]
        del light.graph.input[:]
        light.graph.input.extend(inputs)
        light.ir_version = _FIRST_IR
    if _opset(light) >= OLDEST_OPSET:
        return light
    try:
        converted = version_converter.convert_version(light, OLDEST_OPSET)
    except Exception as error:  # the converter raises RuntimeError and others of its own
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} has opset {_opset(light)}; fabrics need {OLDEST_OPSET}, and onnx cannot "
            f"convert it: {reason}. Export the model anew with opset 18."
        ) from error
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(converted, name, getattr(light, name))
    known = {entry.key for entry in converted.metadata_props}
    converted.metadata_props.extend(e for e in light.metadata_props if e.key not in known)
    others = [e for e in light.opset_import if e.domain not in ("", "ai.onnx")]
    have = {entry.domain for entry in converted.opset_import}
    converted.opset_import.extend(entry for entry in others if entry.domain not in have)
    return converted
