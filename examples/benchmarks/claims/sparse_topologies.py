"""Sparse Neural Networks Topologies (1706.05683): connectivity decides, not density.

Networks with two sparse layers of one stage each, of graphs from random and expanding to rings and
blocks that never meet. The paper says that accuracy follows the spectral gap and the algebraic
connectivity of the network's graph rather than its density. So: rank correlations of each with
minus the test loss, over all graphs, and over those of equal density.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from score_study.judge import agreement

import sparsify as sp
from sparsify.fabric import Fabric, GraphStage, Stage

from ..protocol import Cell, longest
from .bulk import WIDTH, final, missing, task_of, train

__all__ = ["figure", "points", "run", "table"]

STEPS = {"fabrics": 500, "digits": 250}
QUICK_STEPS = {"fabrics": 200, "digits": 120}
DEGREES = (4, 6, 8, 16)  # weights per feature
QUICK_DEGREES = (4, 8)
LATTICES = {
    4: {"torus": ("torus", (2, 32))},
    6: {"torus": ("torus", (2, 2, 2, 8)), "hypercube": ("hypercube", ())},
}
MEASURES = {
    "density": "degree",
    "spectral gap": "spectral_gap",
    "algebraic connectivity": "algebraic_connectivity",
}
"""Name -> where the result of a run has it."""


def run(task: str, graphs: str, degree: int, steps: int, lr: float) -> dict[str, Any]:
    """Train one network with five seeds.

    Args:
        task: "fabrics" (nothing but the two layers) or "digits" (a dense head).
        graphs: a name of `pairs`.
        degree: weights per feature.
        steps: of training.
        lr: base learning rate.

    Returns:
        The test losses of the seeds, the weights, and connectivities of both layers together.
    """
    first, second = dict(pairs(degree))[graphs]
    job = task_of(task, steps)
    layers = [Fabric(WIDTH, WIDTH, ((stage,),)) for stage in (first, second)]
    scores = sp.score(Fabric(WIDTH, WIDTH, ((first, second),)))
    return {
        **train(job, [job.build(layers[0], layers[1], seed) for seed in job.seeds], lr),
        "degree": degree,
        "spectral_gap": float(scores["spectral_gap"]),
        "algebraic_connectivity": float(scores["algebraic_connectivity"]),
    }


def pairs(degree: int) -> Iterator[tuple[str, tuple[Stage | GraphStage, Stage | GraphStage]]]:
    """The graphs of the two layers, by name.

    Example:
        >>> [name for name, _ in pairs(6)]
        ['circulant', 'xor', 'ring', 'radix', 'torus', 'hypercube']
    """

    def graph(name: str, seed: int = 0, options: tuple[int, ...] = ()) -> GraphStage:
        return GraphStage(name, WIDTH, WIDTH, degree, options, seed)

    ring = graph("radix", options=(degree, 1))
    yield "circulant", (graph("circulant", 1), graph("circulant", 2))
    yield "xor", (graph("xor", 1), graph("xor", 2))
    yield "ring", (ring, ring)
    yield "radix", (ring, graph("radix", options=(degree, min(degree, WIDTH // degree))))
    for name, (kind, options) in LATTICES.get(degree, {}).items():
        yield name, (graph(kind, options=options), graph(kind, options=options))
    if WIDTH % degree:
        return
    count = WIDTH // degree
    blocks, strided = Stage(count, degree, degree, 1), Stage(1, degree, degree, count)
    yield "random", (graph("random", 1), graph("random", 2))
    yield "random again", (graph("random", 3), graph("random", 4))
    yield "ring, then random", (ring, graph("random", 1))
    yield "blocks, then random", (blocks, graph("random", 1))
    yield "blocks, strided", (blocks, strided)
    yield "blocks, aligned", (blocks, blocks)


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted; quick: two degrees, one rate."""
    return [point for cell in cells(quick) for point in missing(cell, found, quick)]


def cells(quick: bool) -> Iterator[Cell]:
    for task in STEPS:
        steps = (QUICK_STEPS if quick else STEPS)[task]
        for degree in QUICK_DEGREES if quick else DEGREES:
            for name, _ in pairs(degree):
                yield {"task": task, "graphs": name, "degree": degree, "steps": steps}


def reached(found: Sequence[sp.Trial], task: str) -> list[dict[str, Any]]:
    """What each network of a task reached."""
    mine = longest([trial for trial in found if trial.point["task"] == task])
    names = sorted({(trial.point["degree"], trial.point["graphs"]) for trial in mine})
    results = []
    for degree, graphs in names:
        steps = mine[0].point["steps"]
        cell = {"task": task, "graphs": graphs, "degree": degree, "steps": steps}
        result = final(cell, mine)
        if result:
            results.append({**result, "graphs": graphs})
    return results


def table(found: Sequence[sp.Trial]) -> str:
    """Markdown: rank correlations of each measure with minus the loss."""
    lines = [
        "| task | networks | " + " | ".join(f"{name}, all" for name in MEASURES) + " | "
        "spectral gap, equal density | algebraic connectivity, equal density |",
        "|---|--:|" + "--:|" * (len(MEASURES) + 2),
    ]
    for task in STEPS:
        results = reached(found, task)
        if not results:
            continue
        cells = [correlation(results, key) for key in MEASURES.values()]
        cells += [within(results, key) for key in list(MEASURES.values())[1:]]
        text = " | ".join(f"{cell:.2f}" for cell in cells)
        lines.append(f"| {task} | {len(results)} | {text} |")
    return "\n".join([*lines, "", *losses(found)])


def losses(found: Sequence[sp.Trial]) -> Iterator[str]:
    """Markdown: test losses by graph and degree, mean of the seeds."""
    for task in STEPS:
        results = reached(found, task)
        if not results:
            continue
        degrees = sorted({result["degree"] for result in results})
        yield f"| {task} | " + " | ".join(f"degree {degree}" for degree in degrees) + " |"
        yield "|---|" + "--:|" * len(degrees)
        for name in dict.fromkeys(result["graphs"] for result in results):
            row = {r["degree"]: r for r in results if r["graphs"] == name}
            marks = [
                f"{row[d]['loss']:.3f} (gap {row[d]['spectral_gap']:.2f})" if d in row else ""
                for d in degrees
            ]
            yield f"| {name} | {' | '.join(marks)} |"
        yield ""


def correlation(results: Sequence[dict[str, Any]], key: str) -> float:
    """Spearman's, with minus the loss."""
    return agreement([r[key] for r in results], [r["loss"] for r in results])


def within(results: Sequence[dict[str, Any]], key: str) -> float:
    """The mean over the densities of the correlation among networks of one."""
    groups = [[r for r in results if r["degree"] == d] for d in {r["degree"] for r in results}]
    return fmean(correlation(group, key) for group in groups)


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Loss against each measure, one colour per degree."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(
        len(STEPS), len(MEASURES), figsize=(9, 5.4), sharey="row", layout="constrained"
    )
    for row, task in zip(axes, STEPS, strict=True):
        results = reached(found, task)
        for axis, (name, key) in zip(row, MEASURES.items(), strict=True):
            for degree in DEGREES:
                group = [r for r in results if r["degree"] == degree]
                axis.scatter(
                    [r[key] for r in group], [r["loss"] for r in group], s=14, label=f"{degree}"
                )
            if results:
                axis.set_title(f"{task}: {correlation(results, key):.2f}", fontsize=9)
            axis.set_xlabel("weights per feature" if name == "density" else name, fontsize=9)
        row[0].set_ylabel("test loss")
    axes[0][-1].legend(title="degree", fontsize=7, title_fontsize=7)
    picture.suptitle("In the titles: rank correlation with minus the loss", fontsize=9)
    picture.savefig(path, dpi=110)
    pyplot.close(picture)
