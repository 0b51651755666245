"""Saving and loading converted models, in the format that the path asks for.

One line of the tables per format; a plug-in adds its own through entry points.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, FileError, ModelError
from .registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["FOLDER", "LOADERS", "SAVERS", "kind_to_save", "load", "save"]

FOLDER = "folder"

# A saver is `(model, path, *, overwrite) -> None`, a loader `(path, model, device) -> Module`.
SAVERS = Registry(
    "format to save in",
    "sparsify.savers",
    {
        ".safetensors": ".io.model:save",
        ".onnx": ".export.onnx.save:save_onnx",
        ".pt2": ".export.pt2:save_pt2",
        FOLDER: ".frontend.folder_files:save_folder",
    },
)
LOADERS = Registry(
    "format to load from",
    "sparsify.loaders",
    {
        ".safetensors": ".io.model:load",
        ".onnx": ".frontend.onnx.model:load_onnx",
        ".pt2": ".frontend.pt2:load_pt2",
        FOLDER: ".frontend.folder:load_folder",
    },
)
_CODELESS = (".safetensors",)  # formats of weights and a recipe, which need the user's own code
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_ENDING = re.compile(r"\.[a-z]\w*")  # "llama-3.1-8b" has none


def save(model: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
    """Save a converted model; the path says how.

    | path | what is written |
    |---|---|
    | `*.safetensors` | the weights and the recipe that rebuilds the model from the dense one |
    | `*.onnx` | for models from ONNX files: such a file, with a node for each fabric |
    | `*.pt2` | the whole model as torch.export has it, which `load` and plain torch need alone |
    | a folder | for transformers models: config, weights and recipe, which `load` needs alone |

    Tied tensors are stored once, and equal models give equal bytes.

    Args:
        model: what `sparsify` returned, trained or not. Not changed.
        path: where; its parent folder must exist. Written whole or not at all. A path that exists
            as a folder, ends with a slash, or has no ending is a folder.
        overwrite: whether what is there may be replaced.

    Raises:
        ConfigError: there is no format with this ending.
        FileError: it cannot be written, or exists and may not be replaced.
        ModelError: the model holds something that is no dense tensor with values, or is of no kind
            that the format is for.

    Example:
        >>> import sparsify as sp
        >>> from torch.nn import Linear, Sequential
        >>> sparse = sp.sparsify(Sequential(Linear(256, 256), Linear(256, 2)))
        >>> sp.save(sparse, "model.safetensors")
    """
    kind = kind_to_save(path)
    if (only := getattr(model, "only_format", kind)) != kind:
        raise ConfigError(
            f"A model that came from a {only} file is saved as one; got {os.fspath(path)}."
        )
    write: Callable[..., None] = SAVERS[kind]
    write(model, path, overwrite=overwrite)


def load(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Load what `save` wrote, without a pickle.

    Types and values are those of the file, bit by bit.

    Args:
        path: the file or folder.
        model: the skeleton: the dense model that was converted; it gives class, methods, hooks,
            mode and requires_grad, may live on the meta device, and is not changed. A
            `.safetensors` file holds no code and needs it; a folder does not.
        device: where the tensors go; by default where the skeleton has them, else the CPU.

    Returns:
        A new model.

    Raises:
        ConfigError: no format has this ending, the skeleton is missing, or there is no such device.
        FileError: there is no such file.
        ModelError: it is damaged, of another kind or version, or does not fit the skeleton.

    Example:
        >>> import sparsify as sp
        >>> from torch.nn import Linear, Sequential
        >>> dense = Sequential(Linear(256, 256), Linear(256, 2))
        >>> sp.save(sp.sparsify(dense), "model.safetensors")
        >>> type(sp.load("model.safetensors", model=dense)[0]).__name__
        'FabricLinear'
    """
    kind = _kind(path)
    if kind in _PICKLES:
        raise ModelError(
            f"{os.fspath(path)} is a pickle by its ending, and loading one can run any code. "
            "Load it yourself if you trust it, convert the model, and save that with sp.save."
        )
    if kind not in LOADERS:
        raise ConfigError(
            f"Nothing is loaded from {kind}: {os.fspath(path)} must end in {_endings(LOADERS)}, or "
            "be a folder."
        )
    if not Path(path).exists():
        raise FileError(f"Cannot read {os.fspath(path)}: there is no such file or folder.")
    if kind in _CODELESS and model is None:
        raise ConfigError(
            f"{os.fspath(path)} holds weights and a recipe, but no code: give model=, the dense "
            "model that was converted; it may be on the meta device."
        )
    read: Callable[..., Any] = LOADERS[kind]
    return read(path, model, device)


def kind_to_save(path: str | os.PathLike[str]) -> str:
    """The name of the format that a path asks for, a key of `SAVERS`.

    Args:
        path: as for `save`.

    Raises:
        ConfigError: there is no format with this ending.

    Example:
        >>> kind_to_save("model.safetensors"), kind_to_save("llama-3.1-8b")
        ('.safetensors', 'folder')
    """
    kind = _kind(path)
    if kind not in SAVERS:
        raise ConfigError(
            f"Nothing is saved as {kind}: {os.fspath(path)} must end in {_endings(SAVERS)}, or be "
            f"a folder (a new one whose name ends in {kind} is written with a slash behind it)."
        )
    return kind


def _kind(path: str | os.PathLike[str]) -> str:
    """The name of a format in the tables, or an ending that has none."""
    ending = Path(path).suffix.lower()
    text = os.fspath(path)
    if not _ENDING.fullmatch(ending) or text.endswith(("/", os.sep)) or Path(path).is_dir():
        return FOLDER
    return ending


def _endings(table: Registry) -> str:
    return " or ".join(name for name in table if name != FOLDER)
