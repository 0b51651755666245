"""ONNX files on the command line."""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError
from ..source import Request, Source
from .model import open_onnx

__all__ = ["OnnxFrontend"]


class OnnxFrontend:
    """A file that ends in .onnx; it brings its own weights."""

    @staticmethod
    def accepts(text: str) -> bool:
        """Whether the text is the path of such a file."""
        return Path(text).suffix.lower() == ".onnx"

    @staticmethod
    def open(request: Request) -> Source:
        """Open the file.

        Raises:
            ConfigError: weights were given too.
            FileError: there is no such file.
            ModelError: it is no ONNX file, damaged, or of a version that cannot be converted.
        """
        if request.weights is not None:
            raise ConfigError(
                f"{request.text} brings its own weights; --weights cannot go with it."
            )
        return Source(open_onnx(request.text))
