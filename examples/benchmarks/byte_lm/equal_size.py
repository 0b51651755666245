"""All arms at equal size and equal text: the main comparison."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sparsify as sp

from ..arms import NARROW
from ..protocol import Cell, all_missing, cell_of, finals, longest, spread
from .trial import BATCH, LENGTH, run

__all__ = ["figure", "points", "run", "table"]

WIDTH, STEPS = 256, 800
QUICK_WIDTH, QUICK_STEPS = 128, 250
SEEDS = (0, 1, 2)
BUDGETS = (0.1, 0.25)
ARMS = ("automatic", NARROW, "random mask", "low rank", "monarch", "clos", "block diagonal")
QUICK_ARMS = ("automatic", NARROW, "random mask", "low rank", "monarch")
RATES = {"dense": 0.001, NARROW: 0.008, "random mask": 0.004}
RATE = 0.002  # of fabrics, where the search begins


def cells(quick: bool) -> list[Cell]:
    """Dense, and every arm at every budget."""
    size: Cell = (
        {"width": QUICK_WIDTH, "steps": QUICK_STEPS} if quick else {"width": WIDTH, "steps": STEPS}
    )
    budgets, arms = (BUDGETS[:1], QUICK_ARMS) if quick else (BUDGETS, ARMS)
    rivals = [{"arm": arm, "budget": budget, **size} for budget in budgets for arm in arms]
    return [{"arm": "dense", "budget": 1.0, **size}, *rivals]


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted, given what is known."""
    seeds = SEEDS[:1] if quick else SEEDS
    return all_missing(cells(quick), found, RATES, RATE, seeds)


def table(found: Sequence[sp.Trial]) -> str:
    """Bits per byte of the test files, each arm at its best rate."""
    lines = [
        "| arm | body weights | of dense | rate | bits per byte | seeds | CPU s | MFLOP per byte |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    ends = _ends(found)
    whole = next((trials[0].result["body"] for name, trials in ends if name == "dense"), None)
    for name, trials in ends:
        first = trials[0].result
        share = f"{first['body'] / whole:.1%}" if whole else "-"
        seconds = statistics.median(trial.result["cpu_s"] for trial in trials)
        lines.append(
            f"| {name} | {first['body']:,} | {share} | {trials[0].point['lr']:g} "
            f"| {spread([trial.result['test'] for trial in trials])} | {len(trials)} "
            f"| {seconds:.0f} | {first['flops'] / 1e6:.1f} |"
        )
    tokens = max(trial.point["steps"] for trial in found) * BATCH * LENGTH
    return "\n".join([*lines, "", f"After {tokens:,} bytes of text."])


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Loss on held-out files against bytes read, arithmetic spent and CPU seconds."""
    from matplotlib import pyplot

    sheet, panels = pyplot.subplots(1, 3, figsize=(15, 4.5), sharey=True)
    units = ("bytes read (millions)", "arithmetic (TFLOP)", "CPU seconds, one thread")
    for name, trials in _ends(found):
        result = trials[0].result
        steps = [step for step, _ in result["curve"]]
        losses = [loss for _, loss in result["curve"]]
        read = [step * BATCH * LENGTH for step in steps]
        scales = (1e-6, result["flops"] * 1e-12, result["cpu_s"] / read[-1])
        for panel, scale in zip(panels, scales, strict=True):
            style = "--" if name.startswith(("dense", NARROW)) else "-"
            panel.plot([scale * count for count in read], losses, style, label=name)
    for panel, unit in zip(panels, units, strict=True):
        panel.set_xlabel(unit)
        panel.grid(alpha=0.3)
    panels[1].set_xscale("log")
    panels[2].set_xscale("log")
    panels[0].set_ylabel("bits per byte, validation")
    panels[0].legend()
    sheet.tight_layout()
    sheet.savefig(path, dpi=120)
    pyplot.close(sheet)


def _ends(found: Sequence[sp.Trial]) -> list[tuple[str, list[Any]]]:
    """The trainings of each arm at its best rate, best arm first within each budget."""
    newest = longest(found)
    kinds = {(trial.point["budget"], trial.point["arm"]): cell_of(trial) for trial in newest}
    ends = [
        (f"{arm}, {budget:.0%}" if budget < 1 else arm, finals(cell, newest))
        for (budget, arm), cell in kinds.items()
    ]

    def order(entry: tuple[str, list[sp.Trial]]) -> tuple[float, float]:
        tests = [trial.result["test"] for trial in entry[1] if trial.result]
        return -entry[1][0].point["budget"], statistics.mean(tests)

    return sorted(((name, trials) for name, trials in ends if trials), key=order)
