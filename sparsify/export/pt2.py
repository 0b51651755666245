"""Models as .pt2 files and exported programs: what `torch.export` writes and every torch reads."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, ModelError, VerificationError
from ..files import staged, writing
from ..frontend.preserve import preserved
from ..frontend.pt2 import as_module
from ..frontend.pt2.file import open_program
from ..frontend.pt2.interface import Axis, Interface, Range, Size
from ..frontend.pt2.module import ExportedModule
from ..frontend.pt2.raising import raised
from ..nn import check_whole
from ..verify import Report
from .inputs import Axes, Inputs
from .pt2_compare import compare_modules
from .sandbox import quiet

__all__ = ["export_program", "export_pt2", "save_pt2"]


def export_pt2(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: tuple[Any, ...] | dict[str, Any] | None = None,
    *,
    dynamic: Axes | None = None,
    verify: bool = True,
    overwrite: bool = True,
) -> Report | None:
    """Write a model as a .pt2 file.

    `torch.export.load` reads the file wherever `sparsify.ops` has been imported, which registers
    the operators of fabrics; `sp.load` reads it as a module that trains. It is published only after
    it was loaded and gave what the model gives, at other sizes of its dynamic axes too.

    Args:
        model: what `sp.load` or `sparsify` gave, or any module; not changed.
        path: the file to write.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs; by default those
            that the program came with, or that the model has as `dummy_inputs`.
        dynamic: axes that may change size, by input name, axis and label, as for `export_onnx`. By
            default those of the program; else axis 0 of all inputs of the common size.
        verify: whether to compare the file with the model.
        overwrite: whether an existing file may be replaced.

    Returns:
        The differences found in the comparison; None with verify=False.

    Raises:
        ConfigError: example_inputs or dynamic are wrong, or missing.
        ModelError: torch's exporter cannot take the model.
        VerificationError: file and model differ.
        FileError: the path is not writable, or exists.

    Example:
        >>> import sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
        >>> export_pt2(layer, "layer.pt2", (torch.randn(2, 64),)).passed
        True
    """
    with staged(path, overwrite=overwrite) as temporary:
        program = export_program(model, example_inputs, dynamic=dynamic)
        with writing(path), quiet():
            torch.export.save(program, temporary)
        return _verified(model, temporary) if verify else None


def save_pt2(
    model: nn.Module | torch.export.ExportedProgram,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = True,
) -> None:
    """Write a model as a .pt2 file, with the inputs that it brings along; see `export_pt2`."""
    export_pt2(as_module(model), path, overwrite=overwrite)


def export_program(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | dict[str, Any] | None = None,
    *,
    dynamic: Axes | None = None,
) -> torch.export.ExportedProgram:
    """The program of a model, sharing its parameters.

    A module that came from a program is exported in the mode that it is in, with the sizes that the
    program had; any other model in evaluation mode.

    Args:
        model: as for `export_pt2`.
        example_inputs: as for `export_pt2`.
        dynamic: as for `export_pt2`.

    Returns:
        The program.

    Raises:
        ConfigError: as for `export_pt2`.
        ModelError: as for `export_pt2`.
    """
    _check_model(model)
    if isinstance(model, ExportedModule) and dynamic in (None, model.interface.dynamic()):
        interface = model.interface
        if example_inputs is not None:
            interface = interface.with_inputs(example_inputs)
        return _exported(model, interface.inputs(), _attempts(interface))
    inputs = Inputs.bind(model, _given(model, example_inputs))
    axes = inputs.axes(dynamic)
    inputs = inputs.at_least_two(axes).contiguous()
    return _exported(model, inputs, [inputs.dynamic_shapes(axes)])


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"A .pt2 file needs a torch.nn.Module; got {type(model).__name__}.")
    check_whole(model)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(
            f"{type(model).__name__} has tensors on the meta device, which hold no values; load "
            "its weights first."
        )


def _given(model: nn.Module, example_inputs: Any) -> Any:
    if example_inputs is not None:
        return example_inputs
    for name in ("example_input_array", "dummy_inputs"):
        offered = getattr(model, name, None)
        if offered is not None:
            return offered if isinstance(offered, (dict, tuple)) else (offered,)
    raise ConfigError(
        f"Tracing {type(model).__name__} for a .pt2 file needs example inputs: give them to "
        "export_pt2(model, path, example_inputs), or the model a dummy_inputs."
    )


def _exported(
    model: nn.Module, inputs: Inputs, attempts: list[dict[str, Any]]
) -> torch.export.ExportedProgram:
    """Export with the first of several descriptions of the dynamic axes that torch takes."""
    for place, shapes in enumerate(attempts):
        try:
            with _tracing(model):
                program = torch.export.export(
                    model, inputs.args, inputs.kwargs, dynamic_shapes=shapes
                )
        except Exception as error:  # torch's own, and whatever the model raises in tracing
            if place + 1 < len(attempts):
                continue
            raise ModelError(
                f"torch's exporter cannot take {type(model).__name__}: {_reason(error)}"
            ) from error
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        return program
    raise AssertionError("no attempt")


@contextlib.contextmanager
def _tracing(model: nn.Module) -> Iterator[None]:
    """Run a model for torch's exporter, and leave no trace; gradients on, or they stay off.

    A block under `no_grad` inside a model ends with the mode from before it, which the graph keeps.
    """
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with (
        preserved(model),
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
        quiet(),
    ):
        if not isinstance(model, ExportedModule):
            for module in model.modules():
                module.training = False
        yield


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split("\n\n")[0].split())
    text = text.replace(' For more information, run with TORCH_LOGS="+dynamic".', "")
    hint = ""
    if "onstraint" in text or "specialized" in text:
        hint = " The model fixes an axis that should change size; name only others in dynamic=."
    elif "data-dependent" in text:
        hint = " Its Python code decides on values of tensors, which a graph cannot do."
    return f"{type(error).__name__}: {text[:300]}{hint}"


def _attempts(interface: Interface) -> list[dict[str, Any]]:
    """The dynamic axes of a program as torch's exporter takes them, the most exact first.

    A named dimension holds sizes together and within their range, but torch refuses it where the
    program asks more of a size (that it be even, say). Such axes are left for torch to relate.
    """
    axes = [size for sizes in interface.sizes.values() for size in sizes if isinstance(size, Axis)]
    counts = Counter(axis.label for axis in axes)
    alone = {axis.label for axis in axes if axis == Axis(axis.label) and counts[axis.label] == 1}
    return [_shapes(interface, loose) for loose in (set(), alone, set(counts))]


def _shapes(interface: Interface, loose: Collection[str]) -> dict[str, Any]:
    """One description of the axes, with these labels left to torch."""
    dims: dict[str, Any] = {}

    def dim(size: Size) -> Any:
        if not isinstance(size, Axis):
            return torch.export.Dim.AUTO if size is None else None
        limits = _limits(interface.ranges.get(size.label, Range()))
        if size.label in loose:
            is_plain = size == Axis(size.label)
            return torch.export.Dim.AUTO(**limits) if is_plain else torch.export.Dim.AUTO
        found = dims.setdefault(size.label, torch.export.Dim(size.label, **limits))
        found = found * size.factor if size.factor != 1 else found
        return found + size.offset if size.offset else found

    def spec(name: str) -> dict[int, Any]:
        found = {axis: dim(size) for axis, size in enumerate(interface.sizes[name])}
        return {axis: value for axis, value in found.items() if value is not None}

    return interface.inputs().shapes(spec)


def _limits(limits: Range) -> dict[str, int]:
    """As arguments of a Dim; torch takes 2 for the least by itself."""
    least = {"min": limits.least} if limits.least > 2 else {}
    return least if limits.most is None else {**least, "max": limits.most}


def _verified(model: nn.Module, path: Path) -> Report:
    """Load the file and compare it with the model, both in evaluation mode."""
    loaded = raised(open_program(path, trust_pickle=True))
    report = compare_modules(model, loaded)
    if report.passed:
        return report
    worst = report.worst
    raise VerificationError(
        f"The .pt2 file differs from {type(model).__name__}: output {worst.output!r} is off by "
        f"{worst.max_abs:.1e} (allowed {worst.tolerance:.0e}). Nothing was written."
    )
