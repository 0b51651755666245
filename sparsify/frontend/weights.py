"""Weights for a model that code has built: ours, plain safetensors, or trusted pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, SparsifyError, nearest
from ..files import reading
from ..io import load
from ..io.saved import is_saved
from ..io.shards import is_checkpoint, map_checkpoint
from ..io.tensors import read_header, read_tensors
from ..mapping import release

__all__ = ["check_types", "with_weights"]

_NESTED = ("state_dict", "model_state_dict", "model")


def with_weights(model: nn.Module, path: Path, *, trust_pickle: bool = False) -> nn.Module:
    """The model with the weights of a checkpoint; sparse where that is one of ours.

    Args:
        model: freshly built; plain weights are loaded in place.
        path: a safetensors file, ours or plain; an index of shards, or a folder of them; or a
            pickle of tensors.
        trust_pickle: whether a pickle may be opened; even then it may only hold tensors.

    Raises:
        FileError: there is no such file.
        ModelError: it is damaged, a pickle that is not trusted, or does not fit the model.
    """
    if is_checkpoint(path) or path.is_dir():
        if path.suffix == ".safetensors" and is_saved(read_header(path)):
            return load(path, model)
        tensors = map_checkpoint(path)
    elif trust_pickle:
        tensors = _read_pickle(path)
    else:
        header = read_header(path)
        if is_saved(header):
            return load(path, model)
        tensors = {entry.name: tensor for entry, tensor in read_tensors(path, header)}
    _check_fit(model, tensors)
    is_meta = any(tensor.is_meta for tensor in model.state_dict().values())
    model.load_state_dict(tensors, strict=False, assign=is_meta)
    release()
    return model


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a pickle; torch refuses everything in it that could run code."""
    try:
        with reading(path):
            data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except SparsifyError:
        raise
    except Exception as error:  # the unpickler meets damage with many kinds
        reason = str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} is damaged, or holds more than tensors, which is refused even with "
            f"--trust-pickle ({reason}). Save the state_dict alone."
        ) from error
    for key in _NESTED:
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
            break
    if not isinstance(data, dict) or not all(isinstance(v, Tensor) for v in data.values()):
        raise ModelError(f"{path} holds no state_dict (a mapping of names to tensors).")
    return data


def _check_fit(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Every tensor of the model is in the file, itself or as the one it is tied to; no other is."""
    wanted = model.state_dict(keep_vars=True)
    given = {id(wanted[name]) for name in tensors if name in wanted}
    for name, tensor in wanted.items():
        if id(tensor) not in given:
            raise ModelError(
                f"The weights have no {name!r}, which the model needs.{nearest(name, tensors)}"
            )
        if name in tensors and tensors[name].shape != tensor.shape:
            raise ModelError(
                f"{name!r} has the shape {tuple(tensors[name].shape)} in the weights and "
                f"{tuple(tensor.shape)} in the model."
            )
        if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point():
            raise ModelError(
                f"{name!r} is {tensors[name].dtype} in the weights and {tensor.dtype} in the model."
            )
    for name in tensors:
        if name not in wanted:
            raise ModelError(
                f"The weights have {name!r}, which the model lacks.{nearest(name, wanted)}"
            )
    check_types("The weights", tensors, wanted)


def check_types(what: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse several types of numbers that would all become the model's: some would be rounded.

    Args:
        what: how to call the weights.
        given: the weights.
        wanted: the tensors of the model; other names do not count.

    Raises:
        ModelError: there are several types, and they are not those of the model.

    Example:
        >>> check_types("m", {"w": torch.ones(1)}, {"w": torch.ones(1).half()})
    """
    types = {tensor.dtype for tensor in given.values() if tensor.is_floating_point()}
    for name in given if len(types) > 1 else ():
        if name in wanted and given[name].dtype != wanted[name].dtype:
            listed = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
            raise ModelError(
                f"{what} mix the types {listed}: {name!r} would change from {given[name].dtype} "
                f"to {wanted[name].dtype}. Save the model in one type first, or remove the files "
                "of another checkpoint."
            )
