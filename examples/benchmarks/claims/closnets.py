"""ClosNets (1802.03885): of the topologies that are fixed beforehand, Clos networks do best.

Two tests. At equal numbers of weights, which family has the lowest loss? And how many weights does
each family need to come down to a given loss? Networks have two layers of 64 features: one task has
nothing but these ("fabrics": the student of a dense teacher), the other dense embeddings and a
dense head around them ("bytes": the next byte of the standard library's sources). Each family
enters with several settings; the one that is reported is chosen with seed 0, as its rate is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from score_study.catalogue import catalogue
from torch import nn

import sparsify as sp

from ..arms import NARROW
from ..protocol import Cell, longest
from .bulk import WIDTH, final, missing, task_of, train

__all__ = ["figure", "points", "run", "table"]

BUDGETS = (384, 768, 1536)  # weights of a layer; a dense one has 4,096
STEPS = {"fabrics": 500, "bytes": 500}
QUICK_STEPS = {"fabrics": 200, "bytes": 200}
DENSE = "dense"
FAMILIES = (
    "clos",
    "butterfly",
    "hypercube",
    "torus",
    "monarch",
    "random",
    "blocks",
    "low rank",
)
TRIED = 2  # settings of each
QUICK_FAMILIES = FAMILIES[:4]


def run(task: str, setting: str, budget: int, steps: int, lr: float) -> dict[str, Any]:
    """Train one network with five seeds.

    Args:
        task: "fabrics" or "bytes".
        setting: a name of lesson 5's catalogue, or "dense" or "narrow dense".
        budget: weights of a layer.
        steps: of training.
        lr: base learning rate.

    Returns:
        The test losses of the seeds, and the weights of the network.
    """
    job = task_of(task, steps)
    if setting in (DENSE, NARROW):
        width = WIDTH if setting == DENSE else narrow(task, budget)
        nets = [thin(task, width, seed) for seed in job.seeds]
    else:
        named = {name: (fabric, mate) for name, fabric, mate in catalogue(WIDTH, budget)}
        nets = [job.build(*named[setting], seed) for seed in job.seeds]
    return train(job, nets, lr)


def narrow(task: str, budget: int) -> int:
    """Width of the dense network with as many weights in all."""
    if task == "fabrics":
        return budget // WIDTH
    return next(h for h in range(WIDTH, 0, -1) if h * (WIDTH + h + 128) <= 2 * budget + 64 * 128)


def thin(task: str, width: int, seed: int) -> nn.Sequential:
    """A dense network with hidden layers of that width."""
    net = task_of(task, 1).build_dense(WIDTH, seed)
    hidden = [place for place, layer in enumerate(net) if isinstance(layer, nn.Linear)]
    for place in hidden:
        inputs = WIDTH if place == hidden[0] else width
        outputs = net[place].out_features if place == hidden[-1] else width
        net[place] = nn.Linear(inputs, outputs)
    return net


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted; quick: four families, one task, one size and rate."""
    return [point for cell in cells(quick) for point in missing(cell, found, quick)]


def cells(quick: bool) -> Iterator[Cell]:
    for task in STEPS:
        steps = (QUICK_STEPS if quick else STEPS)[task]
        yield {"task": task, "setting": DENSE, "budget": WIDTH**2, "steps": steps}
        for budget in BUDGETS[1:2] if quick else BUDGETS:
            for setting in settings(budget, QUICK_FAMILIES if quick else FAMILIES):
                yield {"task": task, "setting": setting, "budget": budget, "steps": steps}


def settings(budget: int, families: Sequence[str]) -> list[str]:
    """The narrow network, and the first settings of each family in lesson 5's catalogue."""
    names = [name for name, _, _ in catalogue(WIDTH, budget)]
    chosen = [NARROW]
    for family in families:
        chosen += [name for name in names if family_of(name) == family][:TRIED]
    return chosen


def family_of(setting: str) -> str:
    """As "clos" of "clos 8.4" and "clos, uneven 4.2.16"; aligned blocks are no family."""
    name = setting.rstrip("0123456789. ")
    return name if name == "blocks, aligned" else name.split(",")[0]


def reached(found: Sequence[sp.Trial]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(task, family) -> by size, what the setting reached that did best with seed 0."""
    best: dict[tuple[str, str, int], dict[str, Any]] = {}
    for task in STEPS:
        mine = longest([trial for trial in found if trial.point["task"] == task])
        names = {(trial.point["setting"], trial.point["budget"]) for trial in mine}
        for setting, budget in sorted(names, key=str):
            steps = mine[0].point["steps"]
            cell = {"task": task, "setting": setting, "budget": budget, "steps": steps}
            result = final(cell, mine)
            key = (task, family_of(setting), budget)
            if result and (key not in best or result["chosen by"] < best[key]["chosen by"]):
                best[key] = {**result, "setting": setting, "budget": budget}
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (task, family, _), result in sorted(best.items(), key=lambda item: item[0][2]):
        curves.setdefault((task, family), []).append(result)
    return curves


def size_at(curve: Sequence[dict[str, Any]], loss: float) -> float | None:
    """Weights at which a curve comes down to a loss, between its points; None if it does not."""
    if curve and curve[0]["loss"] <= loss:
        return float(curve[0]["weights"])
    for left, right in pairwise(curve):
        if right["loss"] <= loss < left["loss"]:
            part = (left["loss"] - loss) / (left["loss"] - right["loss"])
            step = math.log(right["weights"] / left["weights"])
            return float(left["weights"] * math.exp(part * step))
    return None


def size_mark(curve: Sequence[dict[str, Any]], loss: float) -> str:
    size = size_at(curve, loss)
    if size is None:
        return "more than tried"
    return f"{size:,.0f}" + " or fewer" * (size == curve[0]["weights"])


def targets(task: str, curves: dict[tuple[str, str], list[dict[str, Any]]]) -> float:
    """The loss that sizes are compared at: Clos's own at the middle budget."""
    curve = curves.get((task, "clos"), [])
    return float(curve[min(1, len(curve) - 1)]["loss"]) if curve else math.nan


def table(found: Sequence[sp.Trial]) -> str:
    """Markdown: loss of each family by budget, and its size at the loss of a Clos of 768."""
    curves = reached(found)
    lines = []
    for task in STEPS:
        aim = targets(task, curves)
        heads = [f"{budget:,} per layer" for budget in BUDGETS]
        lines += [
            f"| {task} | {' | '.join(heads)} | weights at loss {aim:.3f} |",
            "|---|" + "--:|" * (len(BUDGETS) + 1),
        ]
        names = [*FAMILIES, NARROW, DENSE]
        for family in (name for name in names if (task, name) in curves):
            curve = curves[task, family]
            by_budget = {result["budget"]: result for result in curve}
            marks = [mark(by_budget.get(budget)) for budget in BUDGETS]
            if family == DENSE:
                marks = [f"{curve[0]['loss']:.3f} with {WIDTH**2:,}", "", ""]
            # The narrow network ends in the wide one.
            whole = curve + curves.get((task, DENSE), []) * (family == NARROW)
            marks.append("" if family == DENSE else size_mark(whole, aim))
            lines.append(f"| {family} | {' | '.join(marks)} |")
        lines.append("")
    return "\n".join(lines)


def mark(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    return f"{result['loss']:.3f} ± {result['spread'] / 2:.3f} ({result['setting']})"


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Loss against weights, one line per family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = reached(found)
    picture, axes = pyplot.subplots(1, len(STEPS), figsize=(9, 3.6), layout="constrained")
    for axis, task in zip(axes, STEPS, strict=True):
        for family in (*FAMILIES, NARROW):
            curve = curves.get((task, family), [])
            style = "k--" if family == NARROW else "o-"
            bold = 2.5 if family == "clos" else 1.2
            axis.plot(
                [r["weights"] for r in curve],
                [r["loss"] for r in curve],
                style,
                linewidth=bold,
                markersize=3,
                label=family,
            )
        axis.set_xlabel("weights of the network")
        axis.set_title(task, fontsize=10)
    axes[0].set_ylabel("test loss")
    axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    picture.savefig(path, dpi=110)
    pyplot.close(picture)
