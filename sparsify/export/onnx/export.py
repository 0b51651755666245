"""`export_onnx`: capture, write, check, verify, publish."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ModelError, VerificationError
from ...files import staged, writing
from ...nn import check_whole
from ...verify import Report, compare, run_model
from ..inputs import BATCH, Axes, Inputs
from .capture import Captured, capture
from .diverge import first_divergence
from .write import check_file, write_graph

__all__ = ["export_onnx"]

_OPSETS = range(18, 24)  # what torch's exporter writes


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: tuple[Any, ...] | dict[str, Any],
    *,
    dynamic: Axes | None = None,
    opset: int = 18,
    verify: bool = True,
    overwrite: bool = True,
) -> Report | None:
    """Write a model as one ONNX file that any stock runtime can run.

    Each fabric becomes one node of the domain `ai.sparsify` with a function body in standard
    operators. The file is published only after it loads in onnxruntime and agrees with the model
    at batch sizes 1, 2 and 7, and at another size of every other axis that may change.

    Args:
        model: the model; nothing in it changes.
        path: the file to write. Beyond 1.8 GB of weights they go to `path` + ".data" beside it.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs, with any batch.
        dynamic: axes that may change size, by input name, axis and label: `{"input_ids":
            {0: "batch", 1: "sequence"}}`. Inputs that are not named here have axis 0 dynamic where
            its size is the common one, labelled "batch"; `{"x": {}}` fixes every axis of x.
        opset: version of ONNX's operators, 18 to 23; 18 runs in the oldest runtimes.
        verify: compare the file with the model before it is published.
        overwrite: whether an existing file may be replaced.

    Returns:
        The differences found in the comparison; None with verify=False.

    Raises:
        ConfigError: example_inputs, dynamic or opset are wrong.
        ModelError: torch's exporter or onnxruntime cannot take the model.
        VerificationError: file and model differ; the message names the first diverging layer.
        FileError: the path is not writable, or exists.

    Example:
        >>> import sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
        >>> sp.export_onnx(layer, "layer.onnx", (torch.randn(1, 64),)).passed
        True
    """
    if opset not in _OPSETS:
        raise ConfigError(f"opset must be {_OPSETS[0]} to {_OPSETS[-1]}; got {opset!r}.")
    _check_model(model)
    inputs = Inputs.bind(model, example_inputs)
    axes = inputs.axes(dynamic)
    with staged(path, overwrite=overwrite) as temporary:
        wide = inputs.at_least_two(axes).contiguous()
        outputs = _public_outputs(model, wide)
        captured = capture(model, wide, axes, outputs, opset)
        with writing(path):
            write_graph(captured.graph, temporary, opset)
        with _dtype_hint(model):
            check_file(temporary)
            return _verified(captured, model, temporary, example_inputs, axes) if verify else None


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"export_onnx needs a torch.nn.Module; got {type(model).__name__}.")
    if getattr(model, "only_format", "") == ".onnx":
        raise ConfigError(
            "The model came from an ONNX file; sp.save, or `sparsify convert`, writes it as one."
        )
    check_whole(model)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(
            f"{type(model).__name__} has tensors on the meta device, which hold no values; load "
            "its weights first."
        )


def _public_outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """What the model gives, by names that neither inputs nor weights have."""
    taken = {*inputs.tensors(), *(name for name, _ in model.named_parameters())}
    outputs = run_model(model, inputs)
    if not outputs:
        raise ModelError(f"{type(model).__name__} returns no tensor; there is nothing to export.")
    return {f"{name}_out" if name in taken else name: value for name, value in outputs.items()}


@contextmanager
def _dtype_hint(model: nn.Module) -> Iterator[None]:
    """Say what to do about a model in a type that stock runtimes have few operators for."""
    held = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    try:
        yield
    except ModelError as error:
        if not held:
            raise
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in held))
        raise ModelError(
            f"{error} The model holds {names}, in which runtimes lack operators; export a float32 "
            "copy: copy.deepcopy(model).float()."
        ) from error


def _verified(
    captured: Captured,
    model: nn.Module,
    path: Path,
    example_inputs: tuple[Any, ...] | dict[str, Any],
    axes: Axes,
) -> Report:
    """Compare the file with the model at several sizes.

    Raises:
        VerificationError: they differ.
    """
    report = compare(model, path, example_inputs)
    if report.passed:
        return report
    worst = report.worst
    at = f" at {worst.at}" if worst.at else ""
    sizes = {BATCH: worst.batch} if worst.batch else {}
    inputs = Inputs.bind(model, example_inputs).resized(axes, {**sizes, **worst.sizes})
    raise VerificationError(
        f"The exported file differs from {type(model).__name__}: output {worst.output!r} is off by "
        f"{worst.max_abs:.1e}{at} (allowed {worst.tolerance:.0e}). Nothing was written. "
        + first_divergence(captured, model, path, inputs)
    )
