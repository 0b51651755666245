"""What turns a dense model into a sparse one again: which fabric stands at which path.

The recipe is read off the module tree, so no hidden attribute can disagree with the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import ConfigError, ModelError, nearest
from ..fabric import Fabric
from ..nn import FabricLayer, FabricWeight, replacement

__all__ = ["Slot", "fabrics", "layers_for", "parse_recipe", "recipe_json", "slots", "stood_for"]

Recipe = dict[str, Fabric]


@dataclass(frozen=True)
class Slot:
    """One place of a parameter or buffer in a model.

    Args:
        name: its full name; a shared tensor has several slots.
        tensor: what is there.
        persistent: whether it is part of the state_dict.
    """

    name: str
    tensor: Tensor
    persistent: bool


def fabrics(model: nn.Module) -> Recipe:
    """The fabric at each path of a fabric layer; a module at two paths is there twice.

    Example:
        >>> fabrics(nn.Linear(2, 2))
        {}
    """
    named = model.named_modules(remove_duplicate=False)
    return {path: module.fabric for path, module in named if isinstance(module, FabricLayer)}


def stood_for(model: nn.Module) -> dict[str, bool]:
    """Where a fabric stands for a raw parameter -> whether that is (in, out)."""
    named = model.named_modules(remove_duplicate=False)
    return {path: module.flipped for path, module in named if isinstance(module, FabricWeight)}


def recipe_json(recipe: Recipe) -> str:
    """The recipe as JSON text: fabrics by path, sorted."""
    data = {path: json.loads(recipe[path].to_json()) for path in sorted(recipe)}
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def parse_recipe(text: str) -> Recipe:
    """Read what `recipe_json` wrote.

    Raises:
        ModelError: the text is no recipe.
    """
    try:
        data = json.loads(text)
        return {path: Fabric.from_json(json.dumps(fabric)) for path, fabric in data.items()}
    except (ConfigError, AttributeError, ValueError, RecursionError) as error:
        raise ModelError(f"The recipe in the file is damaged ({error}).") from None


def slots(model: nn.Module, layers: Mapping[str, FabricLayer] | None = None) -> Iterator[Slot]:
    """All places of parameters and buffers, every path of a shared one.

    Args:
        model: the model.
        layers: fabric layers by path that are to be seen instead of the modules there.
    """
    covered = layers or {}
    for path, module in model.named_modules(remove_duplicate=False):
        if not any(parent in covered for parent in _parents(path)):
            yield from _own_slots(path, module)
    for path, layer in covered.items():
        for part_path, part in layer.named_modules(prefix=path):
            yield from _own_slots(part_path, part)


def _parents(path: str) -> Iterator[str]:
    """The path itself and those above it, the model's own ("") last."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _own_slots(path: str, module: nn.Module) -> Iterator[Slot]:
    prefix = f"{path}." if path else ""
    for group in (module._parameters, module._buffers):
        for leaf, tensor in group.items():
            if tensor is not None:
                persistent = leaf not in module._non_persistent_buffers_set
                yield Slot(f"{prefix}{leaf}", tensor, persistent)


def layers_for(
    skeleton: nn.Module, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, FabricLayer]:
    """The fabric layers that a skeleton lacks, by path; one layer for a module at several paths.

    Args:
        skeleton: the dense model, or one that has these fabrics already.
        recipe: which fabric belongs where.
        shapes: of the tensors that will fill the layers, by name; checked before memory is taken.

    Raises:
        ModelError: a path is missing, the sizes differ, or the skeleton has other fabrics.
    """
    modules = dict(skeleton.named_modules(remove_duplicate=False))
    for path in fabrics(skeleton):
        if path not in recipe:
            raise ModelError(f"The skeleton has a fabric at {path!r}, where the file has none.")
    made: dict[int, FabricLayer] = {}
    layers: dict[str, FabricLayer] = {}
    for path, fabric in recipe.items():
        if path not in modules:
            raise ModelError(
                f"The skeleton has no module {path!r}, which is a fabric in the file."
                f"{nearest(path, modules)} Give the dense model that was converted."
            )
        module = modules[path]
        if isinstance(module, FabricLayer):
            if module.fabric != fabric:
                raise ModelError(
                    f"{path!r} is {fabric} in the file, and {module.fabric} in the skeleton."
                )
            continue
        _check_factors(path, fabric, shapes)
        if id(module) not in made:
            made[id(module)] = _layer(path, module, fabric)
        elif made[id(module)].fabric != fabric:
            raise ModelError(
                f"{path!r} is shared in the skeleton, but has its own fabric in the file."
            )
        layers[path] = made[id(module)]
    return layers


def _check_factors(path: str, fabric: Fabric, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for index, stage in enumerate(fabric.stages):
        name = f"{path}.factors.{index}" if path else f"factors.{index}"
        if shapes.get(name) != stage.shape:
            raise ModelError(
                f"The file is damaged: {name!r} should have the shape {stage.shape} of its fabric; "
                f"it has {shapes.get(name)}."
            )


def _layer(path: str, module: nn.Module, fabric: Fabric) -> FabricLayer:
    try:
        return replacement(module, fabric)
    except (ModelError, ConfigError) as error:
        raise ModelError(
            f"The skeleton does not fit the file at {path!r}: {error} "
            "Give the dense model that was converted."
        ) from None
