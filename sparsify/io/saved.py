"""The files that `sparsify.io` writes: what their metadata says, and their tensors, verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..files import reading
from .recipe import Recipe, parse_recipe
from .shards import SINGLE
from .tensors import Digest, Header, read_header, read_tensors

__all__ = ["FORMAT", "SCHEMA", "WEIGHTS", "Saved", "is_saved", "open_saved", "saved_in"]

FORMAT = "sparsify"
SCHEMA = "1"
# Not the name that transformers looks for: its from_pretrained knows no fabrics, and would give
# back a dense model with random weights. It says that there are no weights, instead.
WEIGHTS = "sparsify.safetensors"
"""The name of our file in a model folder."""


@dataclass(frozen=True)
class Saved:
    """A file of ours, before its tensors are read.

    Args:
        path: the file.
        header: its metadata and the names, types and shapes of its tensors.
        recipe: which fabric stands at which path.
        aliases: names of tied tensors by the name under which they are stored: alias -> stored.
        hidden: names of buffers that are no part of the state_dict.
        weights: fabrics that stand for a raw parameter -> whether that is (in, out).
    """

    path: Path
    header: Header
    recipe: Recipe
    aliases: dict[str, str]
    hidden: frozenset[str]
    weights: dict[str, bool]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, under all its names."""
        stored = {entry.name: entry.shape for entry in self.header.entries}
        return stored | {alias: stored[name] for alias, name in self.aliases.items()}

    def tensors(self, devices: Mapping[str, torch.device] | None = None) -> dict[str, Tensor]:
        """Read all tensors, under all their names.

        Args:
            devices: where they go, by name; the CPU by default.

        Raises:
            FileError: the file cannot be read.
            ModelError: it is damaged: the content does not match its sha256.
        """
        digest = Digest(self.header.metadata, self.header.entries)
        tensors = {}
        for entry, tensor in read_tensors(self.path, self.header):
            digest.add(tensor)
            tensors[entry.name] = tensor.to((devices or {}).get(entry.name, torch.device("cpu")))
        self._check(digest)
        return tensors | {alias: tensors[name] for alias, name in self.aliases.items()}

    def verify(self) -> None:
        """Compare the content with the sha256, in pieces.

        Raises:
            FileError: the file cannot be read.
            ModelError: it is damaged.
        """
        digest = Digest(self.header.metadata, self.header.entries)
        with reading(self.path), self.path.open("rb") as file:
            file.seek(self.header.start)
            digest.add_file(file)
        self._check(digest)

    def _check(self, digest: Digest) -> None:
        if digest.text() != self.header.metadata["sha256"]:
            raise ModelError(
                f"{self.path} is damaged: its content does not match its sha256. Copy or save it "
                "again."
            )


def is_saved(header: Header) -> bool:
    """Whether a safetensors file is one of ours."""
    return header.metadata.get("format") == FORMAT


def saved_in(path: Path) -> Path | None:
    """The file of ours in a folder, or the path itself where it is one; None where there is none.

    Raises:
        ModelError: a safetensors file that is damaged.
    """
    names = (WEIGHTS, SINGLE) if path.is_dir() else ("",)
    for file in (path / name for name in names):
        if file.is_file() and file.suffix == ".safetensors" and is_saved(read_header(file)):
            return file
    return None


def open_saved(path: Path) -> Saved:
    """Read what a file of ours says about itself.

    Raises:
        FileError: there is no such file.
        ModelError: it is none of ours, of another schema, or damaged.
    """
    header = read_header(path)
    if not is_saved(header):
        raise ModelError(
            f"{path} is a plain safetensors file without a recipe. Load plain weights into the "
            "dense model first (safetensors.torch.load_model), or give them as --weights."
        )
    if header.metadata.get("schema") != SCHEMA:
        raise ModelError(
            f"{path} has schema {header.metadata.get('schema')!r}; this version reads {SCHEMA!r}. "
            "Update the package, or save the model again; or the file is damaged."
        )
    for key in ("recipe", "aliases", "non_persistent", "sha256"):
        if key not in header.metadata:
            raise ModelError(f"{path} is damaged: its metadata lacks {key!r}.")
    aliases, hidden = _json(path, header, "aliases"), _json(path, header, "non_persistent")
    names = {entry.name for entry in header.entries}
    good = isinstance(aliases, dict) and isinstance(hidden, list)
    if not good or not names.issuperset(map(str, aliases.values())):
        raise ModelError(f"{path} is damaged: its metadata names tensors that it does not hold.")
    recipe = parse_recipe(header.metadata["recipe"])
    weights = _json(path, header, "weights") if "weights" in header.metadata else {}
    if not isinstance(weights, dict) or not recipe.keys() >= weights.keys():
        raise ModelError(f"{path} is damaged: its metadata names weights without a fabric.")
    return Saved(path, header, recipe, aliases, frozenset(map(str, hidden)), weights)


def _json(path: Path, header: Header, key: str) -> Any:
    try:
        return json.loads(header.metadata[key])
    except (ValueError, RecursionError):
        raise ModelError(f"{path} is damaged: {key!r} of its metadata is unreadable.") from None
