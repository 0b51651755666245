"""Which networks are trained, and a file of results that a later run continues."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from sparsify.nn import FabricLinear

from .catalogue import catalogue
from .tasks import TASKS, Task
from .train import side_by_side

__all__ = ["GROUPS", "Group", "read", "run"]


@dataclass(frozen=True)
class Group:
    """Fabrics of one size that learn one task.

    Attributes:
        task: a name of `TASKS`.
        width: features of a layer.
        budget: weights of a layer.
        held_out: whether the formula of the score was settled without a look at it.
    """

    task: str
    width: int
    budget: int
    held_out: bool

    @property
    def half(self) -> str:
        """Which of the two halves it belongs to."""
        return "held out" if self.held_out else "selection"

    def __str__(self) -> str:
        """As "digits 768", with the width where it is not 64."""
        width = f" n={self.width}" if self.width != 64 else ""
        return f"{self.task} {self.budget}{width}"


GROUPS = (
    Group("teacher", 64, 384, held_out=False),
    Group("teacher", 64, 768, held_out=True),
    Group("teacher", 64, 1536, held_out=False),
    Group("digits", 64, 384, held_out=False),
    Group("digits", 64, 768, held_out=True),
    Group("digits", 64, 1536, held_out=False),
    Group("fabrics", 64, 384, held_out=False),
    Group("fabrics", 64, 768, held_out=True),
    Group("fabrics", 64, 1536, held_out=False),
    Group("bytes", 64, 384, held_out=True),
    Group("bytes", 64, 768, held_out=False),
    Group("bytes", 64, 1536, held_out=True),
    Group("teacher", 256, 8192, held_out=True),
    Group("bytes", 256, 8192, held_out=True),
)
"""Split before anything was trained: selection groups choose the formula, the others judge it."""


def run(path: Path, groups: tuple[Group, ...], say: Any = print) -> None:
    """Train what the file does not hold yet, and append it line by line.

    Args:
        path: JSON lines; made if need be.
        groups: what to train.
        say: told about each network.
    """
    done = {_key(line) for line in read(path)}
    for group in groups:
        task = TASKS[group.task]
        nets = {
            name: [task.build(fabric, mate, seed) for seed in task.seeds]
            for name, fabric, mate in catalogue(group.width, group.budget)
            if task.layers > 1 or not name.startswith("blocks, aligned")
        }
        nets["dense"] = [task.build_dense(group.width, seed) for seed in task.seeds]
        for name, trained in nets.items():
            setting = _setting(group, task, name, trained[0])
            if _key(setting) in done:
                continue
            start = time.perf_counter()
            losses = side_by_side(task, trained, group.width)
            seconds = time.perf_counter() - start
            line = {**setting, "losses": losses, "seconds": round(seconds, 2)}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            best = min(sum(row) / len(row) for row in losses)
            say(f"{group!s:22} {name:36} {best:.4f}  {seconds:5.1f} s")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _setting(group: Group, task: Task, name: str, net: nn.Sequential) -> dict[str, Any]:
    """All that a result depends on; the fabrics without the names of their families."""
    layers = [m.fabric for m in net if isinstance(m, FabricLinear)]
    return {
        "task": group.task,
        "width": group.width,
        "budget": group.budget,
        "name": name,
        "steps": task.steps,
        "rates": list(task.rates),
        "seeds": list(task.seeds),
        "fabrics": [str(replace(fabric, family="")) for fabric in layers],
    }


def _key(line: dict[str, Any]) -> str:
    names = ("task", "width", "budget", "name", "steps", "rates", "seeds", "fabrics")
    return json.dumps([line[name] for name in names])
