"""Checkpoints in the safetensors format: one file, or several shards; mapped, not read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError, ModelError, nearest
from ..files import read_text, reading
from ..mapping import map_file
from .tensors import DTYPES, Header, read_header

__all__ = ["INDEX", "SINGLE", "is_checkpoint", "map_checkpoint"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_NUMBERED = re.compile(r"-\d+-of-\d+$")


def is_checkpoint(path: Path) -> bool:
    """Whether there is a checkpoint: a folder with shards, an index of them, or one file."""
    if path.is_dir():
        return any(path.glob("*.safetensors")) or (path / INDEX).is_file()
    return path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")


def map_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name; their bytes are read when they are used.

    Args:
        path: a safetensors file; an index of shards (`model.safetensors.index.json`); or a folder
            with an index, with `model.safetensors`, or with nothing but shards.

    Returns:
        Tensors on the CPU that can be written to; the files stay as they are.

    Raises:
        FileError: a file cannot be read.
        ModelError: a shard is missing or damaged, does not hold what the index says, or a tensor
            is in two of them.

    Example:
        >>> map_checkpoint(Path("llama"))["lm_head.weight"].dtype  # doctest: +SKIP
        torch.bfloat16
    """
    shards, index = _shards(path)
    tensors: dict[str, Tensor] = {}
    homes: dict[str, str] = {}
    for shard in shards:
        for name, tensor in _map(shard, read_header(shard)).items():
            if name in homes:
                raise ModelError(
                    f"{name!r} is in two shards of {path}: {homes[name]} and {shard.name}. "
                    "Remove the files of the older checkpoint."
                )
            homes[name], tensors[name] = shard.name, tensor
    if index is not None:
        _check_index(path, index, homes)
    return tensors


def _shards(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The files of a checkpoint, and which tensor the index wants in which."""
    if not path.is_dir():
        if path.suffix != ".json":
            return [path], None
        index = _index(path)
        return _present(path, index), index
    if (path / INDEX).is_file():
        return _shards(path / INDEX)
    if (path / SINGLE).is_file():
        return [path / SINGLE], None
    shards = sorted(path.glob("*.safetensors"))
    if not shards:
        raise FileError(
            f"{path} holds no weights: there is no {SINGLE}, no {INDEX} and no other safetensors "
            "file in it."
        )
    _check_numbers(path, shards)
    return shards, None


def _index(path: Path) -> dict[str, str]:
    try:
        found = json.loads(read_text(path))["weight_map"]
        good = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good or not found:
        raise ModelError(
            f"{path} is no index of shards, or it is damaged: it lacks a 'weight_map' from names "
            "of tensors to names of files."
        )
    outside = [name for name in found.values() if Path(name).name != name]
    if outside:
        raise ModelError(f"{path} names a shard outside of its own folder: {outside[0]!r}.")
    return dict(found)


def _present(path: Path, index: Mapping[str, str]) -> list[Path]:
    shards = [path.parent / name for name in sorted(set(index.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelError(
            f"{len(missing)} of the {len(shards)} shards that {path} lists are missing: "
            f"{', '.join(missing[:3])}{', ...' * (len(missing) > 3)}. Copy them into its folder."
        )
    return shards


def _check_numbers(path: Path, shards: list[Path]) -> None:
    """Without an index, names such as model-00001-of-00003 tell how many shards there are."""
    numbered = [shard.stem for shard in shards if _NUMBERED.search(shard.stem)]
    counts = {int(name.rpartition("-of-")[2]) for name in numbered}
    if len(counts) == 1 and (count := counts.pop()) > len(numbered):
        raise ModelError(
            f"{path} has {len(numbered)} of {count} shards, and no {INDEX}. Copy the others there."
        )


def _check_index(path: Path, index: Mapping[str, str], homes: Mapping[str, str]) -> None:
    for name, shard in index.items():
        if homes.get(name) != shard:
            where = homes.get(name, "none")
            raise ModelError(
                f"The index of {path} puts {name!r} into {shard}; it is in {where}. The files are "
                f"of different checkpoints.{'' if name in homes else nearest(name, homes)}"
            )


def _map(path: Path, header: Header) -> dict[str, Tensor]:
    with reading(path):
        memory = map_file(path)
    tensors = {}
    start = header.start
    for entry in header.entries:
        dtype = DTYPES[entry.dtype]
        count = math.prod(entry.shape)
        if count == 0:
            tensors[entry.name] = torch.empty(entry.shape, dtype=dtype)
        elif start % dtype.itemsize:  # old writers did not align; torch wants it
            part = bytearray(memory[start : start + count * dtype.itemsize])
            tensors[entry.name] = torch.frombuffer(part, dtype=dtype).reshape(entry.shape)
        else:
            values = torch.frombuffer(memory, dtype=dtype, count=count, offset=start)
            tensors[entry.name] = values.reshape(entry.shape)
        start += count * dtype.itemsize
    return tensors
