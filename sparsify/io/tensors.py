"""Files of tensors in the safetensors format: same content, same bytes; checked when read.

The format's own library writes its metadata in random order and holds a second copy of all tensors,
so this writes the (simple) format itself, one tensor at a time; its library validates what is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import ModelError
from ..files import reading

__all__ = ["Digest", "Entry", "Header", "read_header", "read_tensors", "write_tensors"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 16 << 20  # bytes read at once
_LONGEST_HEADER = 16 << 20  # bytes; one tensor takes about 100
_UNKNOWN = "0" * 64  # stands for a digest until it is known
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Args:
        name: its name.
        dtype: a key of `DTYPES`.
        shape: its shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Args:
        metadata: free text by key.
        entries: the tensors in the order of their bytes.
        start: where the bytes begin.
    """

    metadata: dict[str, str]
    entries: tuple[Entry, ...]
    start: int


class Digest:
    """The sha256 of metadata, names, types, shapes and values, whatever the file's layout.

    Args:
        metadata: the metadata; its key "sha256" is left out.
        entries: the tensors in the order in which they will be added.
    """

    def __init__(self, metadata: Mapping[str, str], entries: tuple[Entry, ...]) -> None:
        """See the class."""
        texts = {key: metadata[key] for key in sorted(metadata) if key != "sha256"}
        about = [texts, [[entry.name, entry.dtype, entry.shape] for entry in entries]]
        self._hash = hashlib.sha256(_compact(about))

    def add(self, tensor: Tensor) -> None:
        """Take in the values of the next tensor."""
        self._hash.update(_bytes(tensor))

    def add_file(self, file: BinaryIO) -> None:
        """Take in the values of all tensors, as they lie in a file."""
        while piece := file.read(_PIECE):
            self._hash.update(piece)

    def text(self) -> str:
        """The digest as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    values: Callable[[str], Tensor] | None = None,
) -> None:
    """Write a file; equal content gives equal bytes.

    Args:
        path: where; the caller publishes it.
        tensors: by name, on any device; one at a time is brought to the CPU.
        metadata: free text; the digest is added under "sha256".
        values: gives each tensor by its name, once, in the order of the file, of the type and shape
            of that in `tensors`, which may be on the meta device then.

    Raises:
        ModelError: a tensor without data, or of a type that the format does not know.
    """
    # Wide types first, so that every tensor is aligned, as the format's own library does.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries = tuple(_entry(name, tensors[name], values is not None) for name in names)
    texts = {key: metadata[key] for key in sorted(metadata)} | {"sha256": _UNKNOWN}
    header: dict[str, Any] = {"__metadata__": texts}
    offset = 0
    for entry in entries:
        size = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        span = [offset, offset + size]
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": span}
        offset += size
    text = _compact(header)
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise ModelError(
            f"The model has too many tensors for one file: its header takes {len(text)} bytes, "
            f"{_LONGEST_HEADER} are allowed."
        )
    digest = Digest(metadata, entries)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for entry in entries:
            tensor = values(entry.name) if values else tensors[entry.name]
            _check_value(entry, tensor)
            digest.add(tensor)
            file.write(_bytes(tensor))
        # Nothing was held in memory to know the digest beforehand: it is as long as its stand-in.
        file.seek(8)
        file.write(text.replace(_sha256(_UNKNOWN), _sha256(digest.text())))


def read_header(path: Path) -> Header:
    """Read what a file says about itself, without its tensors.

    Raises:
        FileError: there is no such file, or it cannot be read.
        ModelError: it is no safetensors file, or damaged or truncated.
    """
    with reading(path), path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        size = path.stat().st_size
        if len(first) < 8 or length > min(_LONGEST_HEADER, size - 8):
            _refuse_pickle(path, first)  # not before: a header of 1,152 bytes begins like one
            raise ModelError(
                f"{path} is no safetensors file, or it is truncated: it has {size} bytes and "
                f"announces a header of {length}."
            )
        text = file.read(length)
    _validate(path)
    data = json.loads(text)
    metadata = data.pop("__metadata__", None) or {}
    ordered = sorted(data.items(), key=lambda item: item[1]["data_offsets"])
    entries = tuple(Entry(name, e["dtype"], tuple(e["shape"])) for name, e in ordered)
    for entry in entries:
        if entry.dtype not in DTYPES:
            raise ModelError(f"{path}: the type {entry.dtype} of {entry.name!r} is not supported.")
    return Header(metadata, entries, 8 + length)


def read_tensors(path: Path, header: Header) -> Iterator[tuple[Entry, Tensor]]:
    """Read the tensors one after the other, into memory of their own, on the CPU.

    Raises:
        FileError: the file cannot be read.
        ModelError: it ended too early.
    """
    with reading(path), path.open("rb") as file:
        file.seek(header.start)
        for entry in header.entries:
            tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="cpu")
            if not _fill(file, tensor):
                raise ModelError(f"{path} is truncated: it ends inside {entry.name!r}.")
            yield entry, tensor


def _refuse_pickle(path: Path, first: bytes) -> None:
    if first.startswith(_PICKLES):
        raise ModelError(
            f"{path} is a pickle, and loading one can run any code. Save the weights with "
            "safetensors.torch.save_model; or, if you trust where they come from, give them to the "
            "command line as --weights with --trust-pickle."
        )


def _validate(path: Path) -> None:
    """Let the format's own library look for damage: offsets, sizes, types, duplicates, depth."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ModelError(
            f"{path} is no safetensors file, or it is damaged or truncated ({error}). "
            "Copy or save it again."
        ) from None


def _fill(file: BinaryIO, tensor: Tensor) -> bool:
    memory = _bytes(tensor)
    while memory:
        count = file.readinto(memory)  # type: ignore[attr-defined]
        if not count:
            return False
        memory = memory[count:]
    return True


def _entry(name: str, tensor: Tensor, may_be_meta: bool) -> Entry:
    if tensor.is_meta and not may_be_meta:
        raise ModelError(f"{name!r} is on the meta device and has no values to save.")
    if tensor.dtype not in _NAMES or tensor.layout != torch.strided:
        raise ModelError(
            f"{name!r} cannot be saved: {tensor.dtype} with layout {tensor.layout}; "
            f"dense tensors of the types {', '.join(DTYPES)} can."
        )
    return Entry(name, _NAMES[tensor.dtype], tuple(tensor.shape))


def _sha256(text: str) -> bytes:
    """The digest as it stands in a header; quotes inside of JSON's texts are escaped."""
    return f'"sha256":"{text}"'.encode()


def _check_value(entry: Entry, tensor: Tensor) -> None:
    if (tensor.dtype, tuple(tensor.shape)) != (DTYPES[entry.dtype], entry.shape):
        raise ModelError(
            f"{entry.name!r} was to be {entry.dtype} of shape {entry.shape}; its values are "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}."
        )


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor: its own where it is contiguous on the CPU, else that of a copy."""
    flat = tensor.detach().cpu().contiguous().reshape(tensor.numel())
    return flat.view(torch.uint8).numpy().data


def _compact(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
