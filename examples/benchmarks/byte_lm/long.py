"""The same comparison when the text is long: where does the dense model catch up?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sparsify as sp

from ..arms import NARROW
from ..protocol import Cell, cell_of, finals, missing
from . import equal_size
from .equal_size import RATE, RATES
from .trial import run

__all__ = ["figure", "points", "run", "table"]

WIDTH, STEPS = 256, 10_000
QUICK_WIDTH, QUICK_STEPS = 128, 600
BUDGET = 0.1
ARMS = ("automatic", NARROW, "dense")
SHORTER = 8  # rates are chosen in runs of this part of the length


def cells(quick: bool) -> list[Cell]:
    """The long training of each arm."""
    width, steps = (QUICK_WIDTH, QUICK_STEPS) if quick else (WIDTH, STEPS)
    return [
        {"arm": arm, "budget": 1.0 if arm == "dense" else BUDGET, "width": width, "steps": steps}
        for arm in ARMS
    ]


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted, given what is known."""
    wanted: list[dict[str, Any]] = []
    for cell in cells(quick):
        shorter = {**cell, "steps": cell["steps"] // SHORTER}
        first = missing(shorter, found, RATES.get(cell["arm"], RATE), (0,))
        if first:
            wanted += first
        elif not any(cell_of(trial) == cell for trial in found):
            rate = finals(shorter, found)[0].point["lr"]
            wanted.append({**cell, "lr": rate, "seed": 0})
    return wanted


table = equal_size.table
figure = equal_size.figure
