"""Model folders as transformers writes them, with or without weights. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import FileError, ModelError, nearest, require
from ..files import read_text, staged, writing
from ..io import load, save
from ..io.saved import is_saved
from ..io.tensors import read_header
from .examples import example_inputs, token_axes
from .factory import seeded
from .source import Request, Source
from .weights import with_weights

__all__ = ["CONFIG", "WEIGHTS", "Folder", "save_folder"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class Folder:
    """A folder with a config.json; its class is the first of the config's architectures.

    Weights are ours, plain safetensors in one file or in shards, or none (random weights then).
    """

    @staticmethod
    def accepts(text: str) -> bool:
        """Whether the text is a folder."""
        return Path(text).is_dir()

    @staticmethod
    def open(request: Request) -> Source:
        """Build the model; on the meta device for a dry run.

        Raises:
            MissingExtraError: transformers is not installed.
            ModelError: the folder holds no model, an unknown one, or weights that do not fit.
        """
        folder = Path(request.text)
        if not (folder / CONFIG).is_file():
            raise ModelError(
                f"{folder} has no {CONFIG}. A model folder is what transformers' save_pretrained "
                "writes, or the output of `sparsify convert`."
            )
        transformers = require("transformers", "hf")
        config = _config(transformers, folder)
        cls = _class(transformers, config, folder)
        model = _build(cls, config, folder, request)
        inputs = example_inputs(model, config)
        return Source(model.eval(), inputs, folder, token_axes(inputs))


def save_folder(model: nn.Module, source: Path, output: Path) -> None:
    """Write a converted model as a folder that this package reads again.

    Args:
        model: the sparse model.
        source: the folder that it came from; its config.json is copied.
        output: the folder to write; made where it is missing, and removed again on failure.

    Raises:
        FileError: the folder cannot be written.
        ModelError: the config cannot be read.
    """
    config = _portable_config(source)
    is_new = not output.exists()
    try:
        with writing(output):
            output.mkdir(exist_ok=True)
        with staged(output / CONFIG, overwrite=True) as temporary:
            temporary.write_text(config, encoding="utf-8")
            save(model, output / WEIGHTS)
    except BaseException:
        if is_new:
            shutil.rmtree(output, ignore_errors=True)
        raise


def _portable_config(folder: Path) -> str:
    """The text of a config.json without the path that it was made from."""
    data = json.loads(read_text(folder / CONFIG))
    data.pop("_name_or_path", None)
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def _config(transformers: Any, folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds
        raise _unreadable(folder / CONFIG, error) from error


def _class(transformers: Any, config: Any, folder: Path) -> Any:
    names = config.architectures or []
    if not names:
        raise ModelError(
            f"{folder / CONFIG} names no class under 'architectures'; add one, such as "
            '["LlamaForCausalLM"].'
        )
    cls = getattr(transformers, names[0], None)
    if cls is None:
        raise ModelError(
            f"transformers {transformers.__version__} has no class {names[0]!r}, which "
            f"{folder / CONFIG} asks for.{nearest(names[0], dir(transformers))}"
        )
    return cls


def _build(cls: Any, config: Any, folder: Path, request: Request) -> nn.Module:
    try:
        if request.weights is not None:
            return with_weights(
                _new(cls, config, request.seed), request.weights, trust_pickle=request.trust_pickle
            )
        is_ours = (folder / WEIGHTS).is_file() and is_saved(read_header(folder / WEIGHTS))
        if is_ours or request.is_dry:
            with torch.device("meta"):
                skeleton = cls(config)
            return load(folder / WEIGHTS, skeleton) if is_ours else skeleton
        if any(folder.glob("*.safetensors")):
            return _pretrained(cls, folder, use_safetensors=True)
        if any((folder / name).exists() for name in _PICKLES):
            return _pickled(cls, folder, request)
        return _new(cls, config, request.seed)
    except (ModelError, FileError):
        raise
    except Exception as error:  # whatever the model's code raises
        raise _unreadable(folder, error) from error


def _new(cls: Any, config: Any, seed: int) -> nn.Module:
    with seeded(seed):
        model: nn.Module = cls(config)
    return model


def _pickled(cls: Any, folder: Path, request: Request) -> nn.Module:
    if not request.trust_pickle:
        raise ModelError(
            f"{folder} has its weights in a pickle, and loading one can run any code. Save them "
            "with save_pretrained, or pass --trust-pickle if you trust where they come from."
        )
    return _pretrained(cls, folder, use_safetensors=False)


def _pretrained(cls: Any, folder: Path, *, use_safetensors: bool) -> nn.Module:
    with _without_progress():
        model, report = cls.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=use_safetensors,
            output_loading_info=True,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder} has no weights for {', '.join(missing[:3])}{' ...' * (len(missing) > 3)} of "
            f"{cls.__name__}; they would be random."
        )
    loaded: nn.Module = model
    return loaded


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """Silence transformers' progress bars inside the block."""
    logging: Any = require("transformers", "hf").utils.logging
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _unreadable(path: Path, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:300]
    return ModelError(f"{path} cannot be read as a model: {type(error).__name__}: {reason}")
