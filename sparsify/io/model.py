"""Saving a sparse model, and loading it into the user's own class.

A file is a safetensors file whose metadata holds the recipe (which fabric stands where), which
tensors share memory, and a sha256 over everything. Nothing in it is code.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ModelError, nearest
from ..files import staged, writing
from ..nn import call_layers, check_whole, copies_of_computed, unfolded_twin
from ..version import package_version
from .recipe import Slot, fabrics, layers_for, recipe_json, slots, stood_for
from .saved import FORMAT, SCHEMA, open_saved
from .tensors import write_tensors

__all__ = ["load", "save"]


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = True,
    values: Callable[[str], Tensor] | None = None,
) -> None:
    """Save a sparse model: its weights and the recipe that rebuilds it.

    Tied tensors are stored once; buffers that are not part of the state_dict are stored too, so
    that a skeleton on the meta device comes back complete. Equal models give equal bytes.

    Args:
        model: what `sparsify` returned, trained or not. Not changed.
        path: the file; its folder must exist. Written whole or not at all.
        overwrite: whether an existing file may be replaced.
        values: gives each tensor by its name, once, in the order of the file; the model may be on
            the meta device then. By default the model has the values itself.

    Raises:
        FileError: the file cannot be written, or exists and may not be replaced.
        ModelError: the model holds something that is no dense tensor with values.

    Example:
        >>> import sparsify as sp
        >>> sparse = sp.sparsify(nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 2)))
        >>> sp.save(sparse, "model.safetensors")
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[object, str] = {}
    hidden = []
    check_whole(model)
    _check_extra_state(model)
    for slot in slots(model):
        _check_plain(slot)
        name = first.setdefault(_identity(slot.tensor), slot.name)
        if name == slot.name:
            tensors[name] = slot.tensor.detach()
        else:
            aliases[slot.name] = name
        if not slot.persistent:
            hidden.append(slot.name)
    metadata = {
        "format": FORMAT,
        "schema": SCHEMA,
        "version": package_version(),
        "recipe": recipe_json(fabrics(model)),
        "aliases": json.dumps(aliases, sort_keys=True),
        "non_persistent": json.dumps(sorted(hidden)),
    }
    if weights := stood_for(model):
        metadata["weights"] = json.dumps(weights, sort_keys=True)
    with staged(path, overwrite=overwrite) as temporary, writing(path):
        write_tensors(temporary, tensors, metadata, values)


def load(
    path: str | os.PathLike[str], model: nn.Module, device: torch.device | str | None = None
) -> nn.Module:
    """Load what `save` wrote, into a copy of the dense model that was converted.

    Types and values are those of the file, bit by bit; class, methods, hooks, mode and
    requires_grad are those of the skeleton. Dense weights of the skeleton are never copied, and it
    may live on the meta device.

    Args:
        path: the file.
        model: the skeleton: the dense model, or one with the same fabrics. Not changed.
        device: where the tensors go; by default where the skeleton has them, the CPU for meta.

    Returns:
        A new model of the skeleton's class.

    Raises:
        FileError: there is no such file.
        ModelError: it is damaged, of another kind or version, or does not fit the skeleton.
        ConfigError: there is no such device.

    Example:
        >>> import sparsify as sp
        >>> dense = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 2))
        >>> sp.save(sp.sparsify(dense), "model.safetensors")
        >>> type(sp.load("model.safetensors", model=dense)[0]).__name__
        'FabricLinear'
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model= must be the dense model that was converted; got {type(model).__name__}."
        )
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ModelError(
            "The skeleton has lazy layers that do not know their sizes yet; run it once first."
        )
    place = _device(device)
    saved = open_saved(Path(path))
    raw = {name: flipped for name, flipped in saved.weights.items() if _is_parameter(model, name)}
    model = unfolded_twin(model, saved.recipe, raw)
    layers = layers_for(model, saved.recipe, saved.shapes)
    places = list(slots(model, layers))
    _check_names(places, saved.shapes, saved.hidden)

    tensors = saved.tensors({slot.name: place or _home(slot.tensor) for slot in places})
    memo = _stand_ins(places, tensors) | copies_of_computed(model)
    for layer_path, layer in layers.items():
        memo[id(model.get_submodule(layer_path))] = copy.deepcopy(layer, memo)
    loaded: nn.Module = copy.deepcopy(model, memo)
    call_layers(loaded)
    _check_complete(loaded)
    return loaded


def _identity(tensor: Tensor) -> object:
    """Equal for tensors that are one and the same memory seen the same way."""
    if tensor.numel() == 0:
        return id(tensor)
    place = (
        (tensor.untyped_storage()._cdata, tensor.storage_offset())
        if tensor.is_meta
        else tensor.data_ptr()
    )
    return (place, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)


def _check_extra_state(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ModelError(
                f"{path or 'the model'} ({type(module).__name__}) has extra state that is no "
                "tensor (get_extra_state); it cannot be saved without a pickle."
            )


def _check_plain(slot: Slot) -> None:
    if type(slot.tensor) not in (Tensor, nn.Parameter):
        raise ModelError(
            f"{slot.name!r} is a {type(slot.tensor).__name__}; only plain tensors can be saved."
        )


def _device(device: torch.device | str | None) -> torch.device | None:
    if device is None:
        return None
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"device={device!r} cannot be used here: {error}") from None


def _home(tensor: Tensor) -> torch.device:
    return torch.device("cpu") if tensor.is_meta else tensor.device


def _check_names(
    places: list[Slot], shapes: Mapping[str, tuple[int, ...]], hidden: frozenset[str]
) -> None:
    """Every tensor of the skeleton is in the file and the other way round, with the same shape."""
    wanted = {slot.name: slot for slot in places}
    for name, slot in wanted.items():
        optional = not slot.persistent and not slot.tensor.is_meta
        if name not in shapes and not optional:
            raise ModelError(
                f"The file has no {name!r}, which the model needs.{nearest(name, shapes)}"
            )
        shape = tuple(slot.tensor.shape)
        if name in shapes and shapes[name] != shape and not optional:
            raise ModelError(
                f"{name!r} has the shape {shapes[name]} in the file and {shape} in the model."
            )
    for name in shapes:
        if name not in wanted and name not in hidden:
            raise ModelError(
                f"The file has {name!r}, which the model lacks.{nearest(name, wanted)}"
            )


def _stand_ins(places: list[Slot], tensors: Mapping[str, Tensor]) -> dict[int, Any]:
    """The memo of a deepcopy in which the file's tensors stand for the skeleton's."""
    memo: dict[int, Any] = {}
    made: dict[tuple[int, bool, bool], Tensor] = {}
    for slot in places:
        value = tensors.get(slot.name)
        if value is None or value.shape != slot.tensor.shape:
            continue  # a buffer outside the state_dict, which the skeleton has itself
        is_parameter = isinstance(slot.tensor, nn.Parameter)
        key = (id(value), is_parameter, slot.tensor.requires_grad)
        if key not in made:
            made[key] = nn.Parameter(value, slot.tensor.requires_grad) if is_parameter else value
        stand_in = memo.setdefault(id(slot.tensor), made[key])
        if stand_in is not made[key] and not torch.equal(stand_in, made[key]):
            raise ModelError(
                f"{slot.name!r} is tied in the skeleton, but has its own values in the file."
            )
    return memo


def _is_parameter(model: nn.Module, name: str) -> bool:
    return any(name == known for known, _ in model.named_parameters())


def _check_complete(model: nn.Module) -> None:
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise ModelError(
                    f"The skeleton has a tensor {path}.{name} on the meta device that is neither a "
                    "parameter nor a buffer, so no file can hold it. Build the skeleton elsewhere."
                )
