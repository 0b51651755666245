"""Small networks of two sparse layers, the seeds of one network trained side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from score_study.tasks import TASKS, Task
from score_study.train import side_by_side
from torch import nn

import sparsify as sp

from ..protocol import Cell, cell_of
from ..rates import best, wanted

__all__ = ["FIRST", "WIDTH", "final", "missing", "task_of", "train"]

WIDTH = 64
SEEDS = (0, 1, 2, 3, 4)  # the learning rate is chosen with the first, the others are reported
FIRST = {"fabrics": 0.03, "bytes": 0.01, "digits": 0.005}
"""Task -> learning rate where the search begins."""


def task_of(name: str, steps: int) -> Task:
    """A task of lesson 5, with five seeds."""
    return dataclasses.replace(TASKS[name], seeds=SEEDS, steps=steps)


def train(task: Task, nets: list[nn.Sequential], lr: float) -> dict[str, Any]:
    """Test loss of each seed's network after training."""
    (losses,) = side_by_side(dataclasses.replace(task, rates=(lr,)), nets, WIDTH)
    weights = sum(p.numel() for p in nets[0].parameters() if p.dim() > 1)
    return {"losses": losses, "weights": weights}


def missing(cell: Cell, found: Sequence[sp.Trial], quick: bool) -> list[dict[str, Any]]:
    """The trainings of a cell that are still wanted; quick: at one rate only."""
    first = FIRST[cell["task"]]
    tried = {trial.point["lr"]: _first(trial) for trial in found if cell_of(trial) == cell}
    rates = [first] if quick and not tried else [] if quick else wanted(first, tried)
    return [{**cell, "lr": rate} for rate in rates]


def final(cell: Cell, found: Sequence[sp.Trial]) -> dict[str, Any] | None:
    """What a cell reached: its losses but for the seed that its rate was chosen with."""
    mine = {trial.point["lr"]: trial for trial in found if cell_of(trial) == cell and trial.result}
    if not mine:
        return None
    result = mine[best({lr: _first(trial) for lr, trial in mine.items()})].result
    assert result is not None
    losses = result["losses"]
    spread = max(losses[1:]) - min(losses[1:])
    return {**result, "chosen by": losses[0], "loss": fmean(losses[1:]), "spread": spread}


def _first(trial: sp.Trial) -> float:
    return float(trial.result["losses"][0]) if trial.result else math.inf
