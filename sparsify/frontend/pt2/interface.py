"""What an exported program is called with: names, sizes, which of them may change."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...errors import ConfigError
from ...export.inputs import BATCH, Inputs

__all__ = ["Axis", "Interface", "Range", "Size"]

_LINEAR = re.compile(r"(?:(\d+)\*)?([A-Za-z_]\w*)(?: ([+-]) (\d+))?")
_SEQUENCE = "sequence"
_LARGEST = 1 << 30  # what torch gives as the largest size is "no limit" beyond this


@dataclass(frozen=True)
class Axis:
    """A size that may change: factor * label + offset.

    Args:
        label: what axes that change together share, such as "batch".
        factor: of the label's value.
        offset: added to it.
    """

    label: str
    factor: int = 1
    offset: int = 0

    def __str__(self) -> str:
        """As a user would write it."""
        text = self.label if self.factor == 1 else f"{self.factor}*{self.label}"
        return f"{text}{self.offset:+d}" if self.offset else text


@dataclass(frozen=True)
class Range:
    """The sizes that a label may take, both included; no upper limit where `most` is None."""

    least: int = 0
    most: int | None = None

    def __str__(self) -> str:
        """As a user would say it."""
        if self.most is None:
            return f"{self.least} or more"
        return f"{self.least} to {self.most}" if self.least else f"at most {self.most}"


Size = int | Axis | None  # None: changes in a way that no single label says


@dataclass(frozen=True)
class Interface:
    """The inputs of a program.

    Args:
        signature: of its `forward`.
        args: example inputs by position.
        kwargs: example inputs by keyword.
        sizes: of each tensor input, by name, axis by axis.
        ranges: of each label.
    """

    signature: inspect.Signature
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sizes: dict[str, tuple[Size, ...]] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)

    @staticmethod
    def of(program: torch.export.ExportedProgram, signature: inspect.Signature) -> Interface:
        """Read the interface off a program.

        Args:
            program: any.
            signature: of the `forward` that its graph becomes.
        """
        names = program.graph_signature.user_inputs
        nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
        values = [nodes[name].meta["val"] if isinstance(name, str) else name for name in names]
        spec = program.call_spec.in_spec
        args, kwargs = pytree.tree_unflatten(values, spec) if spec else (tuple(values), {})
        shapes = Inputs(signature, args, kwargs).tensors()
        labels = _labels(shapes)
        sizes = {
            name: tuple(_size(extent, labels) for extent in tensor.shape)
            for name, tensor in shapes.items()
        }
        ranges = {
            labels[str(symbol)]: _range(limits)
            for symbol, limits in program.range_constraints.items()
            if str(symbol) in labels
        }
        if program.example_inputs:  # None, or {} in a file that was saved without
            args, kwargs = program.example_inputs
        else:
            args, kwargs = pytree.tree_map_only(Tensor, _made_up, (args, kwargs))
        return Interface(signature, tuple(args), dict(kwargs), sizes, ranges)

    def named_inputs(self) -> dict[str, Any]:
        """The example inputs as keyword inputs."""
        return dict(self.signature.bind(*self.args, **self.kwargs).arguments)

    def with_inputs(self, example_inputs: tuple[Any, ...] | Mapping[str, Any]) -> Interface:
        """The same interface with other example inputs.

        Args:
            example_inputs: a tuple of positional or a dict of keyword inputs.

        Raises:
            ConfigError: the program does not take them.
        """
        is_named = isinstance(example_inputs, Mapping)
        args, kwargs = ((), dict(example_inputs)) if is_named else (tuple(example_inputs), {})
        self.check(args, kwargs)
        values = list(self.signature.bind(*args, **kwargs).arguments.items())
        count = len(self.args)
        positional = tuple(value for _, value in values[:count])
        return replace(self, args=positional, kwargs=dict(values[count:]))

    def inputs(self) -> Inputs:
        """The example inputs in the form in which the program was exported."""
        return Inputs(self.signature, self.args, self.kwargs)

    def dynamic(self) -> dict[str, dict[int, str]]:
        """The axes that may change, by input, with their labels.

        First axes that are of one size in the example are one batch here, even where the program
        does not say so: torch's exporter keeps no tie between inputs that it can broadcast.
        """
        tensors = self.inputs().tensors()
        batch = {
            tensors[name].shape[0] for name, sizes in self.sizes.items() if _is_batch(sizes[:1])
        }
        return {
            name: {
                axis: BATCH if axis == 0 and tensors[name].shape[0] in batch else size.label
                for axis, size in enumerate(sizes)
                if isinstance(size, Axis)
            }
            for name, sizes in self.sizes.items()
        }

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse inputs that the program was not exported for.

        Raises:
            ConfigError: an input is missing or unknown, is no tensor, or has another size.
        """
        try:
            given = Inputs(self.signature, args, dict(kwargs)).tensors()
        except TypeError as error:
            raise ConfigError(
                f"The exported program takes the inputs {', '.join(self.signature.parameters)}: "
                f"{error}."
            ) from None
        values: dict[str, tuple[int, str]] = {}
        for name, sizes in self.sizes.items():
            if name not in given:
                raise ConfigError(f"The exported program needs a tensor as its input {name!r}.")
            shape = tuple(given[name].shape)
            if len(shape) != len(sizes):
                raise self._wrong(name, shape, f"{len(shape)} axes")
            for axis, (size, extent) in enumerate(zip(sizes, shape, strict=True)):
                self._check_size(name, shape, axis, size, int(extent), values)

    def _check_size(
        self,
        name: str,
        shape: tuple[int, ...],
        axis: int,
        size: Size,
        extent: int,
        values: dict[str, tuple[int, str]],
    ) -> None:
        where = f"size {extent} on axis {axis}"
        if size is None:
            return
        if isinstance(size, int):
            if size != extent:
                raise self._wrong(name, shape, where)
            return
        value, rest = divmod(extent - size.offset, size.factor)
        limits = self.ranges.get(size.label, Range())
        if rest or value < limits.least or (limits.most is not None and value > limits.most):
            raise self._wrong(name, shape, f"{where}, and {size.label} is {limits}")
        before, other = values.setdefault(size.label, (value, name))
        if before != value:
            raise self._wrong(name, shape, f"{where}, and {other!r} has {size.label} = {before}")

    def _wrong(self, name: str, shape: tuple[int, ...], what: str) -> ConfigError:
        wanted = ", ".join("?" if size is None else str(size) for size in self.sizes[name])
        return ConfigError(
            f"The exported program takes {name!r} of shape ({wanted}); got {shape}, with {what}. "
            "Other sizes need another export, with dynamic shapes there."
        )


def _is_batch(sizes: tuple[Size, ...]) -> bool:
    return sizes == (Axis(BATCH),)


def _labels(shapes: dict[str, Tensor]) -> dict[str, str]:
    """A readable label for each symbol: the batch, a sequence, or input and axis."""
    firsts = Counter(
        symbol
        for shape in shapes.values()
        for symbol in _symbols(shape.shape[0] if shape.dim() else 0)
    )
    labels: dict[str, str] = {}
    if firsts:
        labels[firsts.most_common(1)[0][0]] = BATCH
    for name, tensor in shapes.items():
        is_tokens = tensor.dim() == 2 and not tensor.is_floating_point()
        for axis, extent in enumerate(tensor.shape):
            for symbol in _symbols(extent):
                taken = set(labels.values())
                plain = _SEQUENCE if is_tokens and axis == 1 and _SEQUENCE not in taken else ""
                labels.setdefault(symbol, plain or f"{name}_{axis}")
    return labels


def _symbols(extent: Any) -> list[str]:
    if isinstance(extent, int):
        return []
    return sorted(str(symbol) for symbol in extent.node.expr.free_symbols)


def _size(extent: Any, labels: dict[str, str]) -> Size:
    if isinstance(extent, int):
        return extent
    match = _LINEAR.fullmatch(str(extent.node.expr))
    if match is None or match[2] not in labels:
        return None
    offset = int(match[4] or 0) * (-1 if match[3] == "-" else 1)
    return Axis(labels[match[2]], int(match[1] or 1), offset)


def _range(limits: Any) -> Range:
    """From torch's own kind of range, whose ends may be infinite."""
    least, most = (int(end) if end.is_Integer else None for end in (limits.lower, limits.upper))
    # Torch counts from 2, and lets 0 and 1 pass.
    return Range(
        least if least and least > 2 else 0, most if most is not None and most < _LARGEST else None
    )


def _made_up(tensor: Tensor) -> Tensor:
    """A tensor of a symbolic shape, with values: seeded noise for floats, zeros for the rest."""
    shape = [extent if isinstance(extent, int) else _hint(extent) for extent in tensor.shape]
    if not tensor.is_floating_point():
        return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(tensor.dtype).to(tensor.device)


def _hint(extent: Any) -> int:
    """The size that the program was exported with, else 2."""
    hint = extent.node.hint if extent.node.has_hint() else None
    return int(hint) if hint is not None else 2
