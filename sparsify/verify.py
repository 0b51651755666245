"""Comparing an exported file with the model that it was made from."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .errors import ConfigError, ModelError, nearest
from .export.inputs import BATCH, Axes, Inputs, named_outputs
from .export.sandbox import sandbox

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Difference", "Report", "compare", "difference", "run_file", "run_model"]

Array = npt.NDArray[Any]

# Allowed error relative to the largest value (at least 1) of an output.
_TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Difference:
    """How far one output of the file is from the model's.

    Args:
        batch: rows of the input, 0 where the file takes one fixed size.
        output: its name in the file.
        max_abs: largest absolute error; inf where shapes differ or only one side is NaN.
        relative: the same, over the largest magnitude of the model's output.
        tolerance: largest error allowed, absolute below magnitude 1, relative above.
        sizes: of other axes that may change, by label, where they are not those of the example.
    """

    batch: int
    output: str
    max_abs: float
    relative: float
    tolerance: float
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def at(self) -> str:
        """The sizes in words: `batch 7, sequence 17`; empty where the file fixes them all."""
        sizes = {**({BATCH: self.batch} if self.batch else {}), **self.sizes}
        return ", ".join(f"{label} {size}" for label, size in sizes.items())

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return min(self.max_abs, self.relative) <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The differences of all outputs at all batch sizes; prints as a table.

    Example:
        >>> print(Report((Difference(2, "logits", 3e-7, 1e-7, 1e-4),)))
        batch  output  max abs error  relative error  allowed
            2  logits        3.0e-07         1.0e-07  1.0e-04  ok
    """

    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether every output is within its tolerance."""
        return all(difference.passed for difference in self.differences)

    @property
    def worst(self) -> Difference:
        """The difference that is furthest beyond, or closest to, its tolerance."""
        return max(self.differences, key=lambda d: min(d.max_abs, d.relative) / (d.tolerance or 1))

    def __str__(self) -> str:
        """One line for each output and batch."""
        width = max(len("output"), *(len(d.output) for d in self.differences))
        lines = [f"batch  {'output':{width}}  max abs error  relative error  allowed"]
        lines += [
            f"{d.batch or '-':>5}  {d.output:{width}}  {d.max_abs:13.1e}  {d.relative:14.1e}"
            f"  {d.tolerance:.1e}  {'ok' if d.passed else 'FAILED'}"
            + (f" ({', '.join(f'{n} {size}' for n, size in d.sizes.items())})" if d.sizes else "")
            for d in self.differences
        ]
        return "\n".join(lines)


def compare(
    model: nn.Module,
    onnx_path: str | os.PathLike[str],
    example_inputs: tuple[Any, ...] | dict[str, Any],
    batches: Sequence[int] = (1, 2, 7),
) -> Report:
    """Run a file in stock onnxruntime and the model in torch, and compare what they give.

    Args:
        model: the torch model, run in evaluation mode; its own mode returns.
        onnx_path: the exported file; its dynamic axes named "batch" take the batch sizes, others
            at the last of them another size than the example's, if the model runs at one.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs.
        batches: batch sizes, each 1 or more.

    Returns:
        A report; see its `passed`.

    Raises:
        ConfigError: the inputs do not fit the model or the file.
        FileError: there is no such file.
        ModelError: onnxruntime cannot load or run the file, or it has other outputs.

    Example:
        >>> import sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
        >>> report = sp.export_onnx(layer, "layer.onnx", (torch.randn(1, 64),))
        >>> compare(layer, "layer.onnx", (torch.randn(4, 64),)).passed
        True
    """
    from .onnx import session

    inputs = Inputs.bind(model, example_inputs)
    runtime = session(onnx_path, native=False)
    axes = _file_axes(runtime, inputs)
    has_batch = any(BATCH in labels.values() for labels in axes.values())
    runs = [{BATCH: batch} for batch in batches] if has_batch else [{}]
    others: dict[str, int] = {}
    differences: list[Difference] = []
    for rows in runs:
        if rows is runs[-1]:
            others = _other_sizes(model, inputs.resized(axes, rows), axes)
        resized = inputs.resized(axes, {**rows, **others})
        expected = run_model(model, resized)
        actual = _run_at(others, runtime, resized)
        if len(actual) != len(expected):
            raise ModelError(
                f"The file has {len(actual)} outputs, the model {len(expected)}; they do not "
                "belong together."
            )
        differences += [
            replace(difference(rows.get(BATCH, 0), name, value, truth), sizes=others)
            for (name, value), truth in zip(actual.items(), expected.values(), strict=True)
        ]
    return Report(tuple(differences))


def _other_sizes(model: nn.Module, inputs: Inputs, axes: Axes) -> dict[str, int]:
    """Sizes for the labels that are no batch, unlike those of the inputs; {} where none will do.

    A file may have an axis as dynamic, and the example's size of it all over its inside.
    """
    tensors = inputs.tensors()
    sizes = {
        label: tensors[name].shape[axis]
        for name, labels in axes.items()
        for axis, label in labels.items()
        if label != BATCH
    }
    for change in _CHANGES if sizes else ():
        others = {label: max(1, change(size)) for label, size in sizes.items()}
        try:
            run_model(model, inputs.resized(axes, others))
        except ConfigError:  # no size that the model takes: positions end, images are halved
            continue
        return others
    return {}


# Lengths are free; images want even sizes, or multiples; positions may be used up.
_CHANGES: tuple[Callable[[int], int], ...] = (
    lambda size: size + 1,
    lambda size: 2 * size,
    lambda size: size // 2,
)


def _run_at(
    others: Mapping[str, int], runtime: onnxruntime.InferenceSession, inputs: Inputs
) -> dict[str, Array]:
    """The outputs of a file, and what to do where it fails at other sizes alone."""
    try:
        return run_file(runtime, inputs)
    except ModelError as error:
        if not others:
            raise
        sizes = ", ".join(f"{label} {size}" for label, size in others.items())
        raise ModelError(
            f"{error} That is at {sizes}, which the model takes: inside the file an axis is fixed "
            "that was to change. Leave it out of dynamic=."
        ) from error


def run_model(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """The tensors that a model gives, in evaluation mode, by name.

    Raises:
        ConfigError: the model cannot run on these inputs.
    """
    try:
        with sandbox(model):
            outputs = model(*inputs.args, **inputs.kwargs)
    except Exception as error:  # whatever the user's model raises
        tensors = inputs.tensors()
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ConfigError(
            f"{type(model).__name__} cannot run on inputs of the shapes {shapes}: "
            f"{type(error).__name__}: {reason}. If axis 0 of an input is no batch, say so with "
            f"dynamic={{{next(iter(tensors))!r}: {{}}}}."
        ) from error
    return named_outputs(outputs)


def run_file(
    runtime: onnxruntime.InferenceSession, inputs: Inputs, names: Sequence[str] | None = None
) -> dict[str, Array]:
    """The outputs that a session gives, by name.

    Raises:
        ModelError: onnxruntime fails on the file.
    """
    values = {name: to_numpy(tensor) for name, tensor in inputs.tensors().items()}
    names = list(names or (output.name for output in runtime.get_outputs()))
    try:
        return dict(zip(names, runtime.run(names, values), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"onnxruntime cannot run the exported file: {reason}") from error


def to_numpy(tensor: Tensor) -> Array:
    """A tensor on the CPU as an array; bfloat16, which numpy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def difference(batch: int, name: str, actual: Array, expected: Tensor) -> Difference:
    """How far an array is from the tensor that it should equal.

    Args:
        batch: rows of the input, for the report.
        name: what is compared, for the report.
        actual: what onnxruntime gives.
        expected: what torch gives; its dtype sets the tolerance, 0 for whole numbers.
    """
    tolerance = _TOLERANCES.get(expected.dtype, 0.0)
    truth = to_numpy(expected)
    if actual.shape != truth.shape:
        return Difference(batch, name, math.inf, math.inf, tolerance)
    if not truth.size:
        return Difference(batch, name, 0.0, 0.0, tolerance)
    wide = np.complex128 if np.iscomplexobj(truth) else np.float64
    got, want = actual.astype(wide), truth.astype(wide)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.nan_to_num(np.abs(got - want), nan=np.inf))
    largest = np.max(np.abs(want[np.isfinite(want)]), initial=0.0)
    absolute = float(error.max())
    return Difference(batch, name, absolute, absolute / max(float(largest), 1e-30), tolerance)


def _file_axes(runtime: onnxruntime.InferenceSession, inputs: Inputs) -> dict[str, dict[int, str]]:
    """The labelled axes of the inputs, as the file has them."""
    known = inputs.tensors()
    axes = {}
    for entry in runtime.get_inputs():
        if entry.name not in known:
            raise ConfigError(
                f"The file needs an input {entry.name!r}; example_inputs has {', '.join(known)}."
                f"{nearest(entry.name, known)}"
            )
        axes[entry.name] = {i: dim for i, dim in enumerate(entry.shape) if isinstance(dim, str)}
    return axes
