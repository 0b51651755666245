"""All arms at equal size and equal text: the main comparison."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sparsify as sp

from ..arms import ARMS, NARROW
from ..protocol import Cell, cell_of, finals, longest, missing, spread
from .trial import BATCH, LENGTH, OUTER_RATE, run

__all__ = ["chosen", "figure", "points", "run", "table", "trainings"]

STEPS, QUICK_STEPS = 500, 250
QUICK_WIDTH = 128
SEEDS = (0, 1, 2)
RIVALS = ("automatic", "expander", NARROW, "random mask", "low rank")
FAMILIES = ("monarch", "clos", "block diagonal")
SIZES: list[tuple[int, float, tuple[str, ...]]] = [  # width, share of the body's weights, arms
    (128, 0.1, (*RIVALS, *FAMILIES)),
    (256, 0.1, RIVALS),
    (256, 0.25, ("automatic", NARROW)),
]
RATES = {"dense": 0.004, NARROW: 0.008, "random mask": 0.032}
RATE = 0.003  # of fabrics, where the search begins
OUTER = 0.05  # rate of embeddings and head that is tried beside the usual one


def cells(quick: bool) -> list[Cell]:
    """Dense, and every arm at every size."""
    sizes = [(QUICK_WIDTH, 0.1, (*RIVALS, FAMILIES[0]))] if quick else SIZES
    steps = QUICK_STEPS if quick else STEPS
    wanted = [(width, "dense", 1.0) for width in dict.fromkeys(size[0] for size in sizes)]
    wanted += [(width, arm, budget) for width, budget, arms in sizes for arm in arms]
    return [
        {"arm": arm, "budget": budget, "width": width, "steps": steps}
        for width, arm, budget in wanted
    ]


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted, given what is known."""
    return [
        point
        for cell in cells(quick)
        for point in trainings(cell, found, SEEDS[:1] if quick or is_aside(cell) else SEEDS)
    ]


def is_aside(cell: Cell) -> bool:
    """One seed is enough where nothing is claimed: the milder budget, the single families."""
    return cell["budget"] == SIZES[-1][1] or cell["arm"] in FAMILIES


def trainings(cell: Cell, found: Sequence[sp.Trial], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Rates of the body first, then another one of embeddings and head, then all seeds."""
    search = missing(cell, found, RATES.get(cell["arm"], RATE), seeds[:1])
    if search:
        return search
    other = {**cell, "outer": OUTER}
    if not finals(other, found):
        return [{**other, "lr": finals(cell, found)[0].point["lr"], "seed": seeds[0]}]
    best = chosen(cell, found)
    done = [trial.point for trial in best]
    wanted = [{**best[0].point, "seed": seed} for seed in seeds]
    return [point for point in wanted if point not in done]


def chosen(cell: Cell, found: Sequence[sp.Trial]) -> list[Any]:
    """The trainings of a cell at its best rates, those of embeddings and head among them."""
    both = [finals(each, found) for each in (cell, {**cell, "outer": OUTER})]
    return min(filter(None, both), key=lambda trials: trials[0].result["validation"], default=[])


def table(found: Sequence[sp.Trial]) -> str:
    """Bits per byte of the test files, each arm at its best rates."""
    lines = [
        "| width | arm | body weights | rate | outer rate | bits per byte | seeds | CPU s "
        "| MFLOP per byte |",
        "| --: | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for (width, name), trials in _ends(found).items():
        first = trials[0].result
        rates = trials[0].point
        seconds = statistics.median(trial.result["cpu_s"] for trial in trials)
        lines.append(
            f"| {width} | {name} | {first['body']:,} | {rates['lr']:g} "
            f"| {rates.get('outer', OUTER_RATE):g} "
            f"| {spread([trial.result['test'] for trial in trials])} | {len(trials)} "
            f"| {seconds:.0f} | {first['flops'] / 1e6:.1f} |"
        )
    read = max(trial.point["steps"] for trial in found) * BATCH * LENGTH
    return "\n".join([*lines, "", f"After {read:,} bytes of text."])


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Validation loss of seed 0 against bytes read, arithmetic spent and CPU seconds, by width."""
    from matplotlib import pyplot

    ends = _ends(found)
    widths = list(dict.fromkeys(width for width, _ in ends))
    sheet, grid = pyplot.subplots(
        len(widths), 3, figsize=(15, 4.5 * len(widths)), sharey="row", squeeze=False
    )
    units = ("bytes read (millions)", "arithmetic (TFLOP)", "CPU seconds, one thread")
    for (width, name), trials in ends.items():
        panels = grid[widths.index(width)]
        result = trials[0].result
        steps = [step for step, _ in result["curve"]]
        losses = [loss for _, loss in result["curve"]]
        read = [step * BATCH * LENGTH for step in steps]
        whole = trials[0].point["steps"] * BATCH * LENGTH
        scales = (1e-6, result["flops"] * 1e-12, result["cpu_s"] / whole)
        for panel, scale in zip(panels, scales, strict=True):
            panel.plot(
                [scale * count for count in read],
                losses,
                "--" if name.startswith(("dense", NARROW)) else "-",
                color=f"C{[*ARMS].index(trials[0].point['arm'])}",
                alpha=0.5 if trials[0].point["budget"] == SIZES[-1][1] else 1.0,
                label=name,
            )
    for width, panels in zip(widths, grid, strict=True):
        for panel, unit in zip(panels, units, strict=True):
            panel.set_xlabel(unit)
            panel.grid(alpha=0.3)
        panels[1].set_xscale("log")
        panels[2].set_xscale("log")
        panels[0].set_ylabel(f"bits per byte, validation, width {width}")
        panels[0].legend()
    sheet.tight_layout()
    sheet.savefig(path, dpi=120)
    pyplot.close(sheet)


def _ends(found: Sequence[sp.Trial]) -> dict[tuple[int, str], list[Any]]:
    """Width and arm -> its trainings at its best rates; large sizes first, then by loss."""
    newest = [trial for trial in longest(found) if trial.result]
    cells = {}
    for trial in newest:
        cell = {key: value for key, value in cell_of(trial).items() if key != "outer"}
        cells[cell["width"], cell["budget"], cell["arm"]] = cell
    ends = {size: chosen(cell, newest) for size, cell in cells.items()}

    def order(size: tuple[int, float, str]) -> tuple[float, float, float]:
        width, budget, _ = size
        return width, -budget, statistics.mean(trial.result["test"] for trial in ends[size])

    return {
        (width, f"{arm}, {budget:.0%}" if budget < 1 else arm): ends[width, budget, arm]
        for width, budget, arm in sorted(ends, key=order)
    }
