"""How a comparison is told: what holds for all, one line per result, batches side by side."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from ..report import Cell, Row, render
from .arms import PASSES
from .comparison import ONNX, TORCH
from .machine import cores, instruction_sets, processor, versions
from .result import Result
from .timing import clock_name
from .turns import MODES

__all__ = ["tell"]

Columns = Mapping[str, Callable[[Result], Cell]]

_WHAT: Columns = {
    "fabric": lambda r: r.fabric,
    "shape": lambda r: r.shape,
    "kept": lambda r: f"{r.density:.1%}",
    "runtime": lambda r: r.setting.runtime,
    "kernel": lambda r: r.kernel,
    "dtype": lambda r: r.setting.dtype,
    "threads": lambda r: r.setting.threads,
}
"""Said once above the table where all rows agree."""

_HOW: Columns = {
    "passes": lambda r: r.setting.passes,
    "mode": lambda r: r.setting.mode,
}


def tell(
    results: Sequence[Result], notes: Sequence[str], form: str, *, styled: bool = False
) -> str:
    """Results as text.

    Args:
        results: one or more.
        notes: what was left out, and why.
        form: "table", "json" or "md".
        styled: whether tables may use the terminal's colours.

    Returns:
        In JSON one object; else what holds for all, a line per result, the same with batches side
        by side where there are several, and a sentence that names what is slower than dense.
    """
    facts = _facts(results)
    if form == "json":
        rows = [result.to_json() for result in results]
        return render((), form, data={**facts, "notes": list(notes), "rows": rows})
    shared = {head: of(results[0]) for head, of in _WHAT.items() if _agree(results, of)}
    columns = {**{head: of for head, of in _WHAT.items() if head not in shared}, **_HOW}
    lines = [{**_cells(result, columns), **_numbers(result)} for result in results]
    texts = [render(lines, form, facts={**facts, **shared}, styled=styled)]
    if not _agree(results, lambda r: r.setting.batch):
        texts.append(render(_side_by_side(results, columns), form, styled=styled))
    return "\n\n".join([*texts, *(f"Left out: {note}." for note in notes), _slower(results)])


def _facts(results: Sequence[Result]) -> dict[str, Any]:
    settings = [result.setting for result in results]
    runtimes = {setting.runtime for setting in settings}
    clocks = dict.fromkeys(clock_name(setting.threads) for setting in settings)
    dense = {TORCH: f"nn.Linear ({_blas()})", ONNX: "Gemm or MatMul with a constant weight"}
    passes = dict.fromkeys(setting.passes for setting in settings)
    modes = dict.fromkeys(setting.mode for setting in settings)
    return {
        "processor": f"{processor()}, {cores()} cores, {sys.platform} {platform.machine()}",
        "instruction sets": instruction_sets(),
        **_load(),
        "versions": ", ".join(
            [*versions(), *(f"{ONNX} {version(ONNX)}" for _ in runtimes & {ONNX})]
        ),
        "dense": "; ".join(f"in {name} {text}" for name, text in dense.items() if name in runtimes),
        "times": f"medians in microseconds of {' and '.join(clocks)}; IQR: the distance between "
        "the quartiles, relative to the median",
        **{name: MODES[name] for name in modes},
        **{name: PASSES[name] for name in passes},
        "efficiency": "(dense time / fabric time) / (dense parameters / fabric parameters)",
        "memory": "MB of all weights; with gradients also of what forward keeps for backward",
    }


def _blas() -> str:
    found = {
        "MKL": torch.backends.mkl.is_available(),
        "oneDNN": torch.backends.mkldnn.is_available(),
    }
    return " and ".join(name for name, is_there in found.items() if is_there) or "torch's own"


def _load() -> dict[str, str]:
    """How busy the machine was meanwhile, where the system tells."""
    if not hasattr(os, "getloadavg"):
        return {}
    return {"load average": f"{os.getloadavg()[0]:.1f} (this benchmark among it)"}


def _agree(results: Sequence[Result], of: Callable[[Result], object]) -> bool:
    return len({of(result) for result in results}) == 1


def _cells(result: Result, columns: Columns) -> dict[str, Cell]:
    return {head: of(result) for head, of in columns.items()}


def _numbers(result: Result) -> dict[str, Cell]:
    return {
        "batch": result.setting.batch or None,
        "dense us": _us(result.dense.median),
        "dense IQR": f"{result.dense.relative:.0%}",
        "fabric us": _us(result.sparse.median),
        "fabric IQR": f"{result.sparse.relative:.0%}",
        "the fabric is": result.verdict,
        "efficiency": f"{result.efficiency:.2f}",
        "dense MB": _mb(result.dense_bytes),
        "fabric MB": _mb(result.sparse_bytes),
        "samples": result.sparse.samples,
    }


def _side_by_side(results: Sequence[Result], columns: Columns) -> list[Row]:
    """Efficiency and verdict of each batch in a column of its own."""
    batches = dict.fromkeys(result.setting.batch for result in results)
    lines: dict[tuple[Cell, ...], dict[str, Cell]] = {}
    for result in results:
        cells = _cells(result, columns)
        empty = {**cells, **{f"batch {batch:,}": None for batch in batches}}
        line = lines.setdefault(tuple(cells.values()), empty)
        line[f"batch {result.setting.batch:,}"] = f"{result.efficiency:.2f} ({result.verdict})"
    return list(lines.values())


def _slower(results: Sequence[Result]) -> str:
    """Where dense is the better choice, each layer and kernel once, with its batches."""
    batches: dict[str, dict[str, None]] = {}
    for result in results:
        if result.is_slower:
            how = result.setting
            place = f"{result.fabric} {result.shape} in {how.runtime} ({result.kernel})"
            batches.setdefault(place, {})[f"{how.batch:,}"] = None
    if not batches:
        return f"Slower than dense in none of {len(results)} rows."
    count = sum(result.is_slower for result in results)
    places = "; ".join(f"{place} at batch {', '.join(found)}" for place, found in batches.items())
    return f"Slower than dense in {count} of {len(results)} rows: {places}."


def _us(seconds: float) -> str:
    value = 1e6 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _mb(count: int) -> str:
    value = count / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
