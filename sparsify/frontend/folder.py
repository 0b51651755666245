"""Model folders as transformers writes them, with or without weights. Nothing is downloaded.

Weights are mapped: opening a model of any size takes no memory for them until they are used.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FileError, MissingExtraError, ModelError, nearest, require
from ..io import load
from ..io.saved import saved_in
from ..io.shards import is_checkpoint, map_checkpoint
from .examples import example_inputs, token_axes
from .factory import seeded
from .folder_files import CONFIG, GENERATION
from .source import Request, Source
from .weights import check_types, with_weights

__all__ = ["Folder", "load_folder"]

logger = logging.getLogger(__name__)
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
        """Build the model; on the meta device for a dry run without weights.

        Raises:
            MissingExtraError: transformers is not installed.
            ModelError: the folder holds no model, an unknown one, or weights that do not fit.
        """
        folder = Path(request.text)
        cls, config = _class(folder)
        with _refusing(folder):
            model = _build(cls, config, folder, request)
        inputs = example_inputs(model, config)
        return Source(model.eval(), inputs, folder, token_axes(inputs))


def load_folder(
    path: Path, model: nn.Module | None = None, device: torch.device | str | None = None
) -> nn.Module:
    """Load the sparse model in a folder.

    Args:
        path: what `save_folder` wrote.
        model: the skeleton; by default a new one of the class in the config, in eval mode.
        device: where the tensors go.

    Raises:
        FileError: there is no such folder.
        ModelError: it holds no sparse model, an unknown one, or weights that do not fit.
        MissingExtraError: transformers is not installed.
    """
    folder = Path(path)
    weights = saved_in(folder)
    if weights is None:
        _class(folder)
        raise ModelError(
            f"{folder} holds no sparse model. If its model is dense, load it with transformers and "
            "convert it, or use `sparsify convert`."
        )
    if model is not None:
        return load(weights, model, device)
    cls, config = _class(folder)
    with _refusing(folder):
        return _complete(load(weights, _skeleton(cls, config), device), folder).eval()


def _class(folder: Path) -> tuple[Any, Any]:
    """The class in the folder's config, and the config."""
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{folder} has no {CONFIG}. A model folder is what transformers' save_pretrained "
            "writes, or the output of `sparsify convert`."
        )
    transformers: Any = require("transformers", "hf")
    with _refusing(folder / CONFIG):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
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
    return cls, config


def _build(cls: Any, config: Any, folder: Path, request: Request) -> nn.Module:
    checkpoint = request.weights or folder
    if ours := saved_in(checkpoint):
        return _complete(load(ours, _skeleton(cls, config)), folder)
    if is_checkpoint(checkpoint):
        tensors = map_checkpoint(checkpoint)
        if request.is_dry and not tensors.keys() <= _skeleton(cls, config).state_dict().keys():
            # transformers would rename tensors, and merge some, such as experts, in memory.
            return _skeleton(cls, config)
        return _complete(_dense(cls, config, checkpoint, tensors), folder)
    if request.weights is not None:
        new = _new(cls, config, request.seed)
        return with_weights(new, request.weights, trust_pickle=request.trust_pickle)
    if any((folder / name).exists() for name in _PICKLES):
        return _pickled(cls, folder, request)
    return _skeleton(cls, config) if request.is_dry else _new(cls, config, request.seed)


def _skeleton(cls: Any, config: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = cls(config)
    return model


def _new(cls: Any, config: Any, seed: int) -> nn.Module:
    with seeded(seed):
        model: nn.Module = cls(config)
    return model


def _dense(cls: Any, config: Any, checkpoint: Path, tensors: dict[str, Tensor]) -> nn.Module:
    """The model over the mapped bytes of its checkpoint."""
    model, report = _pretrained(cls, None, config=config, state_dict=tensors)
    if report["unexpected_keys"]:
        names = ", ".join(sorted(report["unexpected_keys"])[:3])
        logger.warning("%s has tensors that %s lacks: %s", checkpoint, cls.__name__, names)
    check_types(f"The weights in {checkpoint}", tensors, model.state_dict())
    return model


def _pickled(cls: Any, folder: Path, request: Request) -> nn.Module:
    if not request.trust_pickle:
        raise ModelError(
            f"{folder} has its weights in a pickle, and loading one can run any code. Save them "
            "with save_pretrained, or pass --trust-pickle if you trust where they come from."
        )
    return _pretrained(cls, folder, use_safetensors=False)[0]


def _pretrained(cls: Any, folder: Path | None, **options: Any) -> tuple[nn.Module, Any]:
    """A model by transformers' own loader, which renames, merges, casts and ties the weights."""
    with _without_progress():
        model, report = cls.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **options
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"There are no weights for {', '.join(missing[:3])}{' ...' * (len(missing) > 3)} of "
            f"{cls.__name__}; they would be random."
        )
    return model, report


def _complete(model: nn.Module, folder: Path) -> nn.Module:
    """The model with what its folder says about generation."""
    if (folder / GENERATION).is_file() and hasattr(model, "generation_config"):
        transformers: Any = require("transformers", "hf")
        model.generation_config = transformers.GenerationConfig.from_pretrained(
            folder, local_files_only=True
        )
    return model


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Name the folder in whatever transformers, or the code of a model, raises."""
    try:
        yield
    except (ModelError, FileError, MissingExtraError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{path} cannot be read as a model: {type(error).__name__}: {reason}"
        ) from error


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """Silence transformers' progress bars inside the block."""
    progress: Any = require("transformers", "hf").utils.logging
    was_on = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            progress.enable_progress_bar()
