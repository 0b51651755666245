"""Exporters, by the ending of the file that they write.

To add one: a file with a function `(model, path, example_inputs, ...)`, one line below (or an entry
point of the group `sparsify.exporters` in a package of your own).
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..registry import Registry

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = ["EXPORTERS", "exporter"]

EXPORTERS = Registry(
    "exporter",
    "sparsify.exporters",
    {".onnx": ".export.onnx.export:export_onnx", ".pt2": ".export.pt2:export_pt2"},
)


def exporter(path: str | os.PathLike[str]) -> Callable[..., Any]:
    """The function that writes files of an ending.

    Args:
        path: the file to write.

    Raises:
        ConfigError: no exporter writes this ending.

    Example:
        >>> exporter("m.onnx").__name__
        'export_onnx'
    """
    found: Callable[..., Any] = EXPORTERS[PurePath(path).suffix.lower()]
    return found
