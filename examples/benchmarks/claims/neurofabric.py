"""NeuroFabric (2002.08339): which topology has all that the paper asks of one?

Nothing is trained here: the requirements are numbers that `sp.score` gives. The paper's other two
claims are tried elsewhere: its init in `benchmarks.depth` (tanh networks, by init), its heuristic
against accuracy in lesson 5.

| requirement | number | wanted |
|---|---|---|
| controllability | generic rank; local dimension / weights | all features |
| path diversity | paths between an input and an output, least | 2 or more |
| symmetry | variation of the number of paths | 0 |
| shallowness | stages | 3 or fewer |
| bandwidth | what passes between the worst halves | all of it |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sparsify as sp

__all__ = ["figure", "points", "run", "table"]

WIDTHS = (64, 256)
SHARES = {64: (0.1875, 0.375), 256: (0.0625, 0.1875)}
"""Width -> budgets."""

KEYS = (
    "generic_rank",
    "local_dimension",
    "paths_min",
    "path_variation",
    "stages",
    "cut_bandwidth",
    "effective_width",
    "parameters",
)


def run(family: str, width: int, budget: float) -> dict[str, Any]:
    """Score the fabric that a family has for a square layer.

    Args:
        family: a name of `sp.topologies()`.
        width: features on both sides.
        budget: share of the dense weights.

    Returns:
        The fabric as text and its scores; nothing but None where the family has none so small.
    """
    try:
        fabric = sp.fabric(family, width, width, budget=budget)
    except sp.BudgetError:
        return {"fabric": None}
    scores = sp.score(fabric)
    return {"fabric": str(fabric), **{key: float(scores[key]) for key in KEYS}}


Meets = Callable[[dict[str, Any], int], bool]

REQUIREMENTS: dict[str, Meets] = {
    "controllable": lambda r, width: r["generic_rank"] >= width,
    "diverse": lambda r, _: r["paths_min"] >= 2,
    "symmetric": lambda r, _: r["path_variation"] < 1e-9,
    "shallow": lambda r, _: r["stages"] <= 3,
    "bandwidth": lambda r, _: r["cut_bandwidth"] >= 1 - 1e-9,
}


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """All families that are built from sizes, at both widths; quick: the narrow one."""
    done = [trial.point for trial in found]
    grid = [
        {"family": family, "width": width, "budget": budget}
        for width in (WIDTHS[:1] if quick else WIDTHS)
        for budget in SHARES[width]
        for family in sp.topologies()
    ]
    return [point for point in grid if point not in done]


def met(result: dict[str, Any], width: int) -> list[str]:
    """The requirements that a fabric meets."""
    return [name for name, meets in REQUIREMENTS.items() if meets(result, width)]


def table(found: Sequence[sp.Trial]) -> str:
    """Markdown: the numbers of each family, and how many of the five requirements they meet."""
    lines = []
    for width in WIDTHS:
        for budget in SHARES[width]:
            mine = [
                t
                for t in found
                if (t.point["width"], t.point["budget"]) == (width, budget)
                and t.result
                and t.result["fabric"]
            ]
            if not mine:
                continue
            lines += [
                f"| {width} features, {budget:.1%} of the weights | weights | rank "
                "| dimension per weight | paths, least | variation | stages | bandwidth "
                "| effective width | meets |",
                "|---|" + "--:|" * 9,
            ]
            rows = [(len(met(t.result, width)), t) for t in mine if t.result]
            for count, trial in sorted(rows, key=lambda row: -row[0]):
                lines.append(line(trial.point["family"], trial.result or {}, count))
            lines.append("")
    return "\n".join(lines)


def line(family: str, result: dict[str, Any], count: int) -> str:
    dimension = result["local_dimension"] / result["parameters"]
    return (
        f"| {family} | {result['parameters']:,.0f} | {result['generic_rank']:.0f} "
        f"| {dimension:.2f} | {result['paths_min']:.0f} | {result['path_variation']:.2f} "
        f"| {result['stages']:.0f} | {result['cut_bandwidth']:.2f} "
        f"| {result['effective_width']:.1f} | {count} of {len(REQUIREMENTS)} |"
    )


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Families against requirements: filled where met."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    place = max(
        ((t.point["width"], t.point["budget"]) for t in found if t.result), default=(WIDTHS[0], 0)
    )
    mine = [
        (t.point["family"], met(t.result, place[0]))
        for t in found
        if (t.point["width"], t.point["budget"]) == place and t.result and t.result["fabric"]
    ]
    mine.sort(key=lambda row: -len(row[1]))
    marks = [[name in names for name in REQUIREMENTS] for _, names in mine]
    picture, axis = pyplot.subplots(figsize=(5, 0.35 * len(mine) + 1.2), layout="constrained")
    axis.imshow(marks, cmap="Greens", vmin=0, vmax=1.5, aspect="auto")
    axis.set_xticks(range(len(REQUIREMENTS)), list(REQUIREMENTS))
    axis.set_yticks(range(len(mine)), [family for family, _ in mine])
    axis.set_title(f"{place[0]} features, {place[1]:.1%} of the weights", fontsize=10)
    picture.savefig(path, dpi=110)
    pyplot.close(picture)
