"""Comparing an exported program with the model that it was made from."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from torch import nn

from ..errors import ConfigError, ModelError
from ..frontend.pt2 import load_pt2
from ..frontend.pt2.interface import Axis, Interface, Range
from ..frontend.pt2.module import ExportedModule
from ..verify import Difference, Report, difference, run_model, to_numpy
from .inputs import Inputs

__all__ = ["compare_modules", "compare_pt2"]


def compare_pt2(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: tuple[Any, ...] | dict[str, Any] | None = None,
) -> Report:
    """Run a .pt2 file and the model in torch, and compare what they give.

    Args:
        model: the model, run in evaluation mode; its own mode returns.
        path: the file.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs; by default those
            of the file.

    Returns:
        A report; see its `passed`.

    Raises:
        ConfigError: the inputs do not fit the model or the file.
        FileError: there is no such file.
        ModelError: it cannot be loaded, or it has other outputs.
    """
    loaded = load_pt2(path)
    if example_inputs is not None:
        loaded.interface = loaded.interface.with_inputs(example_inputs)
    return compare_modules(model, loaded)


def compare_modules(model: nn.Module, loaded: ExportedModule) -> Report:
    """Run a program and the model that it was made from, and compare what they give.

    Args:
        model: the model, run in evaluation mode; its own mode returns.
        loaded: the program, likewise; run on its own example inputs, and on some of another size
            along every axis that may change.

    Returns:
        A report; see its `passed`.

    Raises:
        ConfigError: the model cannot run on the program's inputs.
        ModelError: the two have different outputs.
    """
    inputs = loaded.interface.inputs()
    report = _differences(model, loaded, inputs)
    other = _other_sizes(loaded.interface)
    if other is not None:
        # What relates sizes to one another no label can say: the model itself may refuse.
        with contextlib.suppress(ConfigError):
            run_model(model, other)
            report += _differences(model, loaded, other)
    return Report(report)


def _differences(
    model: nn.Module, loaded: ExportedModule, inputs: Inputs
) -> tuple[Difference, ...]:
    expected, actual = run_model(model, inputs), run_model(loaded, inputs)
    if len(expected) != len(actual):
        raise ModelError(
            f"The program has {len(actual)} outputs, the model {len(expected)}; they do not belong "
            "together."
        )
    batch = next((tensor.shape[0] for tensor in inputs.tensors().values() if tensor.dim()), 0)
    return tuple(
        difference(batch, name, to_numpy(value), truth)
        for (name, value), truth in zip(actual.items(), expected.values(), strict=True)
    )


def _other_sizes(interface: Interface) -> Inputs | None:
    """The example inputs, one larger along each axis that may change freely; one less at most."""
    tensors = interface.inputs().tensors()
    dynamic = interface.dynamic()
    sizes: dict[str, int] = {}
    for name, labels in dynamic.items():
        for axis, label in labels.items():
            size = tensors[name].shape[axis]
            most = interface.ranges.get(label, Range()).most
            sizes[label] = size + 1 if most is None or size < most else size - 1
    derived = {
        size.label
        for all_sizes in interface.sizes.values()
        for size in all_sizes
        if isinstance(size, Axis) and (size.factor, size.offset) != (1, 0)
    }
    sizes = {label: size for label, size in sizes.items() if label not in derived}
    return interface.inputs().resized(dynamic, sizes) if sizes else None
