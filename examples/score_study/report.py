"""Tables and a picture of what the study found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from .catalogue import catalogue
from .judge import agreement, final_loss, noise, regret
from .scores import scores
from .study import Group, read

__all__ = ["Result", "picture", "results", "tables"]


@dataclass(frozen=True)
class Result:
    """A group with what its fabrics scored and what they reached.

    Attributes:
        group: which one.
        names: of the fabrics.
        losses: their final losses.
        scores: name of a score -> its value for each fabric, higher is better.
        dense: final loss of the dense network.
        noise: how well two halves of the seeds agree, the most that a score could reach.
    """

    group: Group
    names: list[str]
    losses: list[float]
    scores: dict[str, list[float]]
    dense: float
    noise: float

    def agreement(self, score: str) -> float:
        """Rank correlation of a score with -loss."""
        return agreement(self.scores[score], self.losses)

    def regret(self, score: str) -> float:
        """What the pick of a score loses, in units of what a median fabric loses."""
        return regret(self.scores[score], self.losses)

    def picked(self, score: str) -> str:
        """The fabric with the highest score."""
        return self.names[int(np.argmax(self.scores[score]))]


def results(path: Path, groups: Sequence[Group]) -> list[Result]:
    """Put trained networks and their scores together.

    Args:
        path: what `run` wrote.
        groups: which of it; groups without results are left out.
    """
    lines = read(path)
    return [found for group in groups if (found := _result(group, lines))]


def _result(group: Group, lines: list[dict[str, Any]]) -> Result | None:
    place = (group.task, group.width, group.budget)
    by_name = {
        line["name"]: line
        for line in lines
        if (line["task"], line["width"], line["budget"]) == place
    }
    entries = [e for e in catalogue(group.width, group.budget) if e[0] in by_name]
    if not entries:
        return None
    trained = [by_name[name] for name, _, _ in entries]
    rated = [scores(fabric, mate) for _, fabric, mate in entries]
    return Result(
        group,
        [name for name, _, _ in entries],
        [final_loss(line) for line in trained],
        {key: [rating[key] for rating in rated] for key in rated[0]},
        final_loss(by_name["dense"]),
        noise(trained),
    )


def tables(found: Sequence[Result]) -> str:
    """Markdown: every score over the two halves of the groups, then the default score by group."""
    return "\n".join((*_by_score(found), "", *_by_group(found)))


def _by_score(found: Sequence[Result]) -> Iterator[str]:
    halves = [[r for r in found if r.group.held_out == held_out] for held_out in (False, True)]
    halves = [half for half in halves if half]
    rows = []
    for score in found[0].scores:
        cells: list[float] = []
        for half in halves:
            agreements = [r.agreement(score) for r in half]
            regrets = [r.regret(score) for r in half]
            cells += [float(np.mean(agreements)), min(agreements), float(np.mean(regrets))]
        rows.append((score, cells))
    yield (
        "| score | "
        + " | ".join(f"{half[0].group.half}: rank correlation | worst | regret" for half in halves)
        + " |"
    )
    yield "|---|" + "--:|" * 3 * len(halves)
    for score, cells in sorted(rows, key=lambda row: -row[1][-3]):
        bold = "**" if score == "default" else ""
        yield f"| {bold}{score}{bold} | " + " | ".join(f"{c:.2f}" for c in cells) + " |"


def _by_group(found: Sequence[Result]) -> Iterator[str]:
    yield (
        "| group | fabrics | rank correlation | of two halves of the seeds | regret | its pick "
        "| loss | best fabric | loss | median | dense |"
    )
    yield "|---|--:|--:|--:|--:|---|--:|---|--:|--:|--:|"
    for r in found:
        losses = dict(zip(r.names, r.losses, strict=True))
        pick, best = r.picked("default"), min(losses, key=lambda name: losses[name])
        yield (
            f"| {r.group}{' (held out)' * r.group.held_out} | {len(losses)} "
            f"| {r.agreement('default'):.2f} | {r.noise:.2f} | {r.regret('default'):.2f} "
            f"| {pick} | {losses[pick]:.3f} | {best} | {losses[best]:.3f} "
            f"| {np.median(r.losses):.3f} | {r.dense:.3f} |"
        )


def picture(found: Sequence[Result], path: Path) -> None:
    """Draw the default score against the loss, one panel per group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(5, len(found))
    rows = -(-len(found) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(2.5 * columns, 2.3 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis, r in zip(axes.flat, found, strict=False):
        colour = "tab:orange" if r.group.held_out else "tab:blue"
        axis.scatter(
            rankdata(r.scores["default"]), r.losses, s=14, color=colour, alpha=0.8, linewidths=0
        )
        axis.set_title(f"{r.group}: {r.agreement('default'):.2f}", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.margins(0.08)
    figure.supxlabel(
        "place by the default score, best at the right (no data, no training)", fontsize=9
    )
    figure.supylabel("test loss after training", fontsize=9)
    figure.suptitle(
        "One dot per fabric, all of a panel with as many weights; in the title, rank correlation "
        "of score and -loss.\nBlue: groups that the formula was chosen on. Orange: held out.",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
