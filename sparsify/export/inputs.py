"""Example inputs: bound to the model's signature, named, resized to other batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ConfigError, ModelError, nearest

__all__ = ["BATCH", "Axes", "Inputs", "leaves", "named_outputs"]

BATCH = "batch"
Axes = Mapping[str, Mapping[int, str]]  # input name -> axis -> label


@dataclass(frozen=True)
class Inputs:
    """What a model is called with, its tensors under the names that an exported file gives them.

    Args:
        signature: of the model's `forward`.
        args: positional inputs.
        kwargs: keyword inputs, in the order of the signature.
    """

    signature: inspect.Signature
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @staticmethod
    def bind(model: nn.Module, example_inputs: object) -> Inputs:
        """Match example inputs with the signature of the model.

        Caches of past keys are switched off where `forward` has a `use_cache`: they are no tensors.

        Args:
            model: the model.
            example_inputs: a tuple of positional inputs or a dict of keyword inputs.

        Raises:
            ConfigError: neither, no tensor in it, or not what `forward` takes.

        Example:
            >>> model = nn.Linear(4, 2)
            >>> list(Inputs.bind(model, (torch.zeros(3, 4),)).tensors())
            ['input']
        """
        args, kwargs = _split(example_inputs)
        signature = inspect.signature(model.forward)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            known = ", ".join(signature.parameters)
            wrong = next((name for name in kwargs if name not in signature.parameters), "")
            raise ConfigError(
                f"example_inputs do not fit {type(model).__name__}.forward: {error}. It takes: "
                f"{known}.{nearest(wrong, signature.parameters) if wrong else ''}"
            ) from None
        if "use_cache" in signature.parameters and "use_cache" not in bound.arguments:
            kwargs["use_cache"] = False
        order = [*signature.parameters, *kwargs]
        kwargs = {name: kwargs[name] for name in sorted(kwargs, key=order.index)}
        inputs = Inputs(signature, args, kwargs)
        if not inputs.tensors():
            raise ConfigError("example_inputs holds no tensor; a model file needs one or more.")
        return inputs

    def tensors(self) -> dict[str, Tensor]:
        """The tensors among the inputs, by name, in the order of the signature."""
        arguments = self.signature.bind(*self.args, **self.kwargs).arguments
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name, {})
        return leaves(arguments)

    def axes(self, dynamic: Axes | None = None) -> dict[str, dict[int, str]]:
        """Which axes of which input may change size, by the label that they share.

        Args:
            dynamic: labels of axes by input name; an input named here has exactly these. Of every
                other input axis 0 is the batch if its size is the common one.

        Raises:
            ConfigError: an unknown input, an axis that it does not have, or axes of one label that
                differ in size.
        """
        tensors = self.tensors()
        sizes = [tensor.shape[0] for tensor in tensors.values() if tensor.dim()]
        common = max(sizes, key=sizes.count, default=0)
        axes = {
            name: {0: BATCH} if tensor.dim() and tensor.shape[0] == common else {}
            for name, tensor in tensors.items()
        }
        for name, labels in (dynamic or {}).items():
            if name not in tensors:
                raise ConfigError(
                    f"dynamic names the input {name!r}, which example_inputs does not have; it has "
                    f"{', '.join(tensors)}.{nearest(name, tensors)}"
                )
            axes[name] = _checked_labels(name, labels, tensors[name])
        _check_sizes(tensors, axes)
        return axes

    def resized(self, axes: Axes, sizes: Mapping[str, int]) -> Inputs:
        """The same inputs with other sizes along labelled axes.

        Rows are repeated, and each repetition is rolled along the last axis: rows differ, so that a
        model which mixes them up is found out, and every value stays one that the user gave.

        Args:
            axes: labels of axes by input name.
            sizes: the new size by label; a label that is not here keeps its size.
        """

        def change(name: str, tensor: Tensor) -> Tensor:
            for axis, label in axes.get(name, {}).items():
                if label in sizes:
                    tensor = _resize(tensor, axis, sizes[label])
            return tensor

        return self._map(change)

    def at_least_two(self, axes: Axes) -> Inputs:
        """The same inputs with no labelled axis of size 1, which torch's exporter would fix.

        Args:
            axes: labels of axes by input name.
        """
        tensors = self.tensors()
        sizes = {
            label: 2
            for name, labels in axes.items()
            for axis, label in labels.items()
            if tensors[name].shape[axis] < 2
        }
        return self.resized(axes, sizes)

    def contiguous(self) -> Inputs:
        """The same values in fresh strides: torch's exporter writes down those of a slice."""
        return self._map(lambda _, tensor: tensor.contiguous())

    def dynamic_shapes(self, axes: Axes) -> dict[str, Any]:
        """The axes in the form that torch's exporter takes, by parameter of `forward`."""
        dynamic = torch.export.Dim.DYNAMIC
        return self.shapes(lambda name: dict.fromkeys(axes.get(name, {}), dynamic))

    def shapes(self, spec: Callable[[str], dict[int, Any]]) -> dict[str, Any]:
        """What the exporter is told of each tensor, by parameter of `forward`.

        Args:
            spec: of an input by its name: what its axes are.
        """
        found = self._map(lambda name, _: spec(name), constant=None)
        return dict(self.signature.bind(*found.args, **found.kwargs).arguments)

    def _map(self, change: Callable[[str, Tensor], Any], **others: None) -> Inputs:
        """Apply a function to each named tensor; other leaves stay, or become `constant`."""
        names = iter(self.tensors())

        def visit(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                return change(next(names), leaf)
            return others.get("constant", leaf)

        args, kwargs = pytree.tree_map(visit, (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)


def leaves(tree: Any) -> dict[str, Tensor]:
    """The tensors of nested containers, named by the path to them, joined with underscores.

    Args:
        tree: tuples, lists, dicts, dataclasses registered with torch's pytree, tensors.

    Example:
        >>> list(leaves({"past": (torch.zeros(1), torch.zeros(1))}))
        ['past_0', 'past_1']
    """
    flat, _ = pytree.tree_flatten_with_path(tree)
    return {"_".join(map(_key, path)): leaf for path, leaf in flat if isinstance(leaf, Tensor)}


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """The tensors that a model returned, by their keys, or as output, output_0, output_1.

    Raises:
        ModelError: something else is among them.

    Example:
        >>> list(named_outputs((torch.zeros(1), torch.zeros(1))))
        ['output_0', 'output_1']
    """
    tree = outputs if isinstance(outputs, Mapping) else {"output": outputs}
    flat, _ = pytree.tree_flatten_with_path(tree)
    for path, leaf in flat:
        if leaf is not None and not isinstance(leaf, Tensor):
            raise ModelError(
                f"The model returns a {type(leaf).__name__} as {'_'.join(map(_key, path))!r}; a "
                "file can hold only tensors. Wrap the model in a module that returns nothing else."
            )
    return leaves(tree)


def _key(entry: Any) -> str:
    """The key, index or attribute name in an entry of a pytree path."""
    return str(next(getattr(entry, n) for n in ("key", "idx", "name") if hasattr(entry, n)))


def _split(example_inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise ConfigError(
        "example_inputs must be a tuple of positional inputs or a dict of keyword inputs; got "
        f"{type(example_inputs).__name__}. Write (x,) for a single tensor."
    )


def _checked_labels(name: str, labels: Mapping[int, str], tensor: Tensor) -> dict[int, str]:
    if not isinstance(labels, Mapping):
        raise ConfigError(
            f"dynamic[{name!r}] must be a dict such as {{0: 'batch'}}; got {labels!r}."
        )
    checked = {}
    for axis, label in labels.items():
        if not isinstance(axis, int) or not -tensor.dim() <= axis < tensor.dim():
            raise ConfigError(
                f"dynamic[{name!r}] names axis {axis!r}; the input has {tensor.dim()} axes, "
                "counted from 0."
            )
        if not isinstance(label, str) or not label.isidentifier():
            raise ConfigError(
                f"dynamic[{name!r}][{axis}] must be a name such as 'sequence'; got {label!r}."
            )
        checked[axis % tensor.dim()] = label
    return checked


def _check_sizes(tensors: Mapping[str, Tensor], axes: Axes) -> None:
    seen: dict[str, int] = {}
    for name, labels in axes.items():
        for axis, label in labels.items():
            size = tensors[name].shape[axis]
            if size == 0:
                raise ConfigError(f"The example input {name!r} is empty along axis {axis}.")
            if seen.setdefault(label, size) != size:
                raise ConfigError(
                    f"Axes labelled {label!r} must agree in size; axis {axis} of {name!r} has "
                    f"{size}, another has {seen[label]}."
                )


def _resize(tensor: Tensor, axis: int, size: int) -> Tensor:
    pieces, have, last = [], tensor.shape[axis], tensor.dim() - 1
    for start in range(0, size, have):
        piece = tensor.narrow(axis, 0, min(have, size - start))
        pieces.append(piece if axis == last else piece.roll(start // have, last))
    return torch.cat(pieces, axis)
