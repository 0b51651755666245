"""Batches for calibration, as the command line names them: a file of inputs, or a function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, ModelError, SparsifyError
from ..files import reading
from ..io.tensors import read_header, read_tensors
from .calibrate import Inputs, as_batches
from .factory import Factory, current_folder, find

__all__ = ["read_batches"]

ROWS = 16  # of a file that make a batch

_ENDINGS = (".safetensors", ".npz", ".npy")


def read_batches(text: str, model: nn.Module) -> list[Inputs]:
    """The batches that a text names.

    Args:
        text: a .safetensors or .npz file of inputs by name, or a .npy file of the only input, with
            all rows along the first axis; or package.module:function, which returns an iterable of
            batches.
        model: whose precision and device floating numbers from files take.

    Raises:
        ConfigError: a text of another form, no batches, or inputs with different numbers of rows.
        FileError: there is no such file.
        ModelError: it is damaged, or the user's function fails.
    """
    path = Path(text)
    if path.suffix in _ENDINGS:
        return _split(_adapted(_read(path), model), text)
    if not Factory.accepts(text):
        raise ConfigError(
            f"--calibration is a file ({', '.join(_ENDINGS)}) of inputs by name, or "
            f"package.module:function; got {text!r}."
        )
    with current_folder():
        made = find(text, "returns an iterable of batches")
        try:
            return as_batches(made())
        except SparsifyError:
            raise
        except Exception as error:  # whatever the user's function raises
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            raise ModelError(f"{text}() failed with {reason}.") from error


def _read(path: Path) -> dict[str, Tensor]:
    """Inputs by name; the only one of a .npy file has the name ""."""
    if path.suffix == ".safetensors":
        header = read_header(path)
        return {entry.name: tensor for entry, tensor in read_tensors(path, header)}
    try:
        with reading(path):
            data = np.load(path, allow_pickle=False)
            arrays = dict(data) if isinstance(data, Mapping) else {"": data}
            return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    except SparsifyError:
        raise
    except Exception as error:  # numpy meets damage with many kinds
        raise ModelError(
            f"{path} cannot be read as arrays of numbers ({type(error).__name__}: {error})."
        ) from error


def _adapted(inputs: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    return {
        name: tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in inputs.items()
    }


def _split(inputs: dict[str, Tensor], text: str) -> list[Inputs]:
    rows = {name: len(tensor) if tensor.dim() else 0 for name, tensor in inputs.items()}
    if not rows or len(set(rows.values())) != 1 or not min(rows.values()):
        counts = ", ".join(f"{name or 'its array'}: {count}" for name, count in rows.items())
        raise ConfigError(
            f"The inputs in {text} must have the same number of rows along their first axis, at "
            f"least one; got {counts or 'no input'}."
        )
    parts = {name: tensor.split(ROWS) for name, tensor in inputs.items()}
    count = len(next(iter(parts.values())))
    batches = [{name: part[place] for name, part in parts.items()} for place in range(count)]
    return as_batches([(batch[""],) if "" in batch else batch for batch in batches])
