"""Writing model folders: config, weights with their recipe, and what else belongs to the model."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import FileError, ModelError, require
from ..files import staged_folder, writing
from ..io import save
from ..io.saved import WEIGHTS, saved_in
from ..io.shards import INDEX, SINGLE

__all__ = ["CONFIG", "GENERATION", "save_folder"]

CONFIG = "config.json"
GENERATION = "generation_config.json"
_COMPANIONS = (
    "added_tokens.json",
    "chat_template*",
    "LICENSE*",
    "merges.txt",
    "*preprocessor_config.json",
    "processor_config.json",
    "*.model",
    "special_tokens_map.json",
    "tokenizer*.json",
    "vocab*",
)
"""What a folder may hold beside the model, and a converted model still needs."""


def save_folder(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = True,
    source: Path | None = None,
    values: Callable[[str], Tensor] | None = None,
) -> None:
    """Write a converted transformers model as a folder that `load_folder` reads alone.

    Args:
        model: the sparse model, of a class of transformers.
        path: the folder; published whole or not at all.
        overwrite: whether a folder that is not empty may be written to.
        source: a folder whose tokenizer files are copied.
        values: gives each tensor by its name; by default the model has them itself.

    Raises:
        FileError: the folder cannot be written, or holds the weights of another model.
        ModelError: the model is none of transformers, or holds what cannot be saved.
    """
    texts = {CONFIG: _config(model)}
    if generation := _generation(model):
        texts[GENERATION] = generation
    _check_vacant(Path(path))
    with staged_folder(path, overwrite=overwrite) as folder, writing(path):
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for companion in _companions(source):
            shutil.copyfile(companion, folder / companion.name)
        save(model, folder / WEIGHTS, values=values)


def _config(model: nn.Module) -> str:
    """The text of config.json, without the path that the model was loaded from."""
    config: Any = getattr(model, "config", None)
    name = type(model).__name__
    if not hasattr(config, "to_json_string"):
        raise ModelError(
            f"A folder holds a transformers model, whose class its config.json tells; this is a "
            f"{name} without a config. Give a path that ends in .safetensors."
        )
    transformers: Any = require("transformers", "hf")
    if getattr(transformers, name, None) is not type(model):
        raise ModelError(
            f"A folder holds a model of a class of transformers, which {name} is not: it could not "
            "be built again from config.json alone. Give a path that ends in .safetensors."
        )
    portable: Any = copy.deepcopy(config)
    portable.architectures = [name]
    data = json.loads(portable.to_json_string())
    data.pop("_name_or_path", None)
    data["dtype"] = str(model.dtype).removeprefix("torch.")
    return _json(data)


def _generation(model: nn.Module) -> str | None:
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return None
    return _json(json.loads(generation.to_json_string()))


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def _check_vacant(folder: Path) -> None:
    """Two models in one folder: whoever opens it would get the wrong one."""
    for name in (SINGLE, INDEX):
        path = folder / name
        if path.is_file() and saved_in(path) is None:
            raise FileError(
                f"{folder} holds the weights of another model ({name}); give another folder."
            )


def _companions(source: Path | None) -> Iterator[Path]:
    if source is not None:
        found = {path for pattern in _COMPANIONS for path in source.glob(pattern)}
        yield from (path for path in sorted(found) if path.is_file())
