"""What a verb of the command line works on: a text such as `package.module:factory` or a folder.

One frontend per kind of text, in one table; each has `accepts(text)` and `open(request)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from ..errors import ConfigError, FileError, ModelError
from ..registry import Registry

__all__ = ["FRONTENDS", "Request", "Source", "open_source"]

FRONTENDS = Registry(
    "frontend",
    "sparsify.frontends",
    {
        "folder": ".frontend.folder:Folder",
        "onnx": ".frontend.onnx.frontend:OnnxFrontend",
        "pt2": ".frontend.pt2:Pt2",
        "factory": ".frontend.factory:Factory",
    },
)


@dataclass(frozen=True)
class Request:
    """What to open, and how.

    Args:
        text: what the user wrote.
        weights: a file of weights, ours or plain.
        trust_pickle: whether the weights may be a pickle of tensors.
        is_dry: no values are needed, so weights may stay on the meta device.
        seed: of random weights.
    """

    text: str
    weights: Path | None = None
    trust_pickle: bool = False
    is_dry: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """An opened model.

    Args:
        model: the model, dense or sparse.
        example_inputs: what it can be called with; None where nothing is known.
        folder: the model folder that it came from; None where it came from code.
        dynamic: axes of the inputs that may change size, by input name, axis and label.
    """

    model: nn.Module
    example_inputs: Any = None
    folder: Path | None = None
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)


class Frontend(Protocol):
    """One kind of source."""

    @staticmethod
    def accepts(text: str) -> bool:
        """Whether the text is of this kind."""

    @staticmethod
    def open(request: Request) -> Source:
        """Build the model."""


def open_source(request: Request, example_inputs: Any = None) -> Source:
    """Open a model through the first frontend that accepts the text.

    Args:
        request: what to open.
        example_inputs: inputs that the user gave; they go before the source's own.

    Raises:
        ConfigError: the text names no factory.
        FileError: there is no such file or folder.
        ModelError: unreadable, or of a kind that is not supported.

    Example:
        >>> open_source(Request("torch.nn:Identity")).model
        Identity()
    """
    for name in FRONTENDS:
        frontend: type[Frontend] = FRONTENDS[name]
        if frontend.accepts(request.text):
            source = frontend.open(request)
            if example_inputs is not None:
                source = replace(source, example_inputs=example_inputs, dynamic={})
            return source
    raise _unsupported(request.text)


def _unsupported(text: str) -> Exception:
    path = Path(text)
    if path.suffix == ".safetensors":
        return ModelError(
            f"{text} holds weights, not code. Give the model as package.module:factory, and this "
            f"file as --weights {text}."
        )
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return ModelError(
            f"Models in {path.suffix} files cannot be read yet. Supported now: "
            "package.module:factory (with --weights), model folders as transformers writes them, "
            ".pt2 files of torch.export, and ONNX files."
        )
    if path.exists() or "/" in text:
        reason = "is no model folder" if path.exists() else "does not exist"
        return FileError(f"{text} {reason}. Give package.module:factory or a model folder.")
    return ConfigError(
        f"A model is package.module:factory or a folder with config.json; got {text!r}."
    )
