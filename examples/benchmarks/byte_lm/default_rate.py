"""Does the rule of `sp.param_groups` need a sweep? Base rates at several widths and budgets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sparsify as sp

from ..protocol import Cell, missing
from ..rates import best
from .trial import run

__all__ = ["figure", "points", "run", "table"]

STEPS, QUICK_STEPS = 400, 150
WIDTHS = (128, 256, 512)
BUDGETS = (0.05, 0.1, 0.25)
TOTAL = 0.768  # divided by the width: the base rate that needs no sweep


def cells(quick: bool) -> list[Cell]:
    """The automatic choice at all sizes; in the quick form the two small widths at one budget."""
    sizes = [
        (width, budget)
        for width in (WIDTHS[:2] if quick else WIDTHS)
        for budget in (BUDGETS[1:2] if quick else BUDGETS)
    ]
    steps = QUICK_STEPS if quick else STEPS
    return [
        {"arm": "automatic", "width": width, "budget": budget, "steps": steps}
        for width, budget in sizes
    ]


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted, given what is known."""
    return [
        point
        for cell in cells(quick)
        for point in missing(cell, found, TOTAL / cell["width"], (0,))
    ]


def table(found: Sequence[sp.Trial]) -> str:
    """What the rate that needs no sweep loses against the best one, by width and budget."""
    lines = [
        f"| width | budget | {TOTAL:g} / width | bits | best rate | bits | lost |",
        "| --: | --: | --: | --: | --: | --: | --: |",
    ]
    for (width, budget), losses in _sizes(found).items():
        rule = TOTAL / width
        if rule in losses:
            rate = best(losses)
            lines.append(
                f"| {width} | {budget:.0%} | {rule:g} | {losses[rule]:.3f} "
                f"| {rate:g} | {losses[rate]:.3f} | {losses[rule] - losses[rate]:.3f} |"
            )
    return "\n".join(lines)


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Loss against base rate; large dots: the rate that needs no sweep."""
    from matplotlib import pyplot

    sheet, panel = pyplot.subplots(figsize=(7, 4.5))
    for (width, budget), losses in _sizes(found).items():
        rates = sorted(losses)
        label = f"width {width}, {budget:.0%}"
        (line,) = panel.plot(rates, [losses[rate] for rate in rates], "o-", label=label)
        rule = TOTAL / width
        if rule in losses:
            panel.plot([rule], [losses[rule]], "o", markersize=12, color=line.get_color())
    panel.set(xscale="log", xlabel="base rate", ylabel="bits per byte, validation")
    panel.grid(alpha=0.3)
    panel.legend(loc="upper left", bbox_to_anchor=(1, 1))
    sheet.tight_layout()
    sheet.savefig(path, dpi=120)
    pyplot.close(sheet)


def _sizes(found: Sequence[sp.Trial]) -> dict[tuple[int, float], dict[float, float]]:
    """Width and budget -> rate -> validation loss, of the longest trainings there are."""
    steps = max((trial.point["steps"] for trial in found), default=0)
    sizes: dict[tuple[int, float], dict[float, float]] = {}
    for trial in found:
        if trial.result and trial.point["steps"] == steps:
            size = trial.point["width"], trial.point["budget"]
            sizes.setdefault(size, {})[trial.point["lr"]] = trial.result["validation"]
    return dict(sorted(sizes.items()))
