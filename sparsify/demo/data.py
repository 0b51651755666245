"""The text of the demo: the standard library's own sources, as bytes."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError

__all__ = ["Corpus", "draw", "spread", "standard_library"]

# Tests, tables and third parties: much text, little of it like the rest.
_SKIPPED = {
    "__pycache__",
    "dist-packages",
    "encodings",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}
_HELD_OUT = 16  # one file of so many is for testing


@dataclass(frozen=True)
class Corpus:
    """Text to learn from and text that no model sees in training, from different files.

    Args:
        train: bytes, (length,) uint8.
        held_out: bytes, (length,) uint8.
        files: number of files in both.
    """

    train: Tensor
    held_out: Tensor
    files: int


def standard_library(root: Path | None = None) -> Corpus:
    """Read all sources; a file's path decides by its hash on which side it lies.

    Args:
        root: a folder of sources; the running Python's standard library by default.

    Raises:
        FileError: there are too few sources (some Pythons come as compiled files only).
    """
    folder = root or Path(sysconfig.get_path("stdlib"))
    sides: tuple[list[bytes], list[bytes]] = ([], [])
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if not _SKIPPED.intersection(name.parts):
            digest = hashlib.sha256(name.as_posix().encode()).digest()
            sides[digest[0] % _HELD_OUT == 0].append(path.read_bytes())
    train, held_out = (b"".join(side) for side in sides)
    if min(len(train), len(held_out)) < 10_000:
        raise FileError(
            f"The demo learns from the standard library's sources, and {folder} holds "
            f"{len(train) + len(held_out):,} bytes of them. Use a Python that has its .py files."
        )
    files = sum(map(len, sides))
    return Corpus(_tensor(train), _tensor(held_out), files)


def draw(
    text: Tensor,  # (length,)
    count: int,
    length: int,
    random: torch.Generator,
) -> Tensor:  # (count, length + 1) int64
    """Windows at random places, each with the byte that follows it."""
    starts = torch.randint(len(text) - length, (count, 1), generator=random)
    return text[starts + torch.arange(length + 1)].long()


def spread(
    text: Tensor,  # (length,)
    count: int,
    length: int,
) -> Tensor:  # (count, length + 1) int64
    """Windows at even distances: the same for every model."""
    starts = torch.linspace(0, len(text) - length - 1, count).long().unsqueeze(1)
    return text[starts + torch.arange(length + 1)].long()


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
