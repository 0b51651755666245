"""A chart of one dot per arm and budget, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["Range", "draw"]

Range = tuple[float, float]
"""A value, and how far it may be off in either direction."""


def draw(
    ranges: Mapping[tuple[str, float], Range],
    path: Path,
    *,
    dense: float,
    claim: float,
    labels: tuple[str, str],
) -> None:
    """Draw arms from top to bottom in the order in which they come.

    Args:
        ranges: by arm and budget.
        path: of the picture.
        dense: of the dense model.
        claim: the worst value that a claim allows.
        labels: of the values and of the claim.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = list(dict.fromkeys(arm for arm, _ in ranges))
    budgets = sorted({budget for _, budget in ranges})
    figure, axis = pyplot.subplots(figsize=(7, 0.5 * len(arms) + 1.4), layout="constrained")
    axis.axvline(dense, color="black", linewidth=1, label="dense")
    axis.axvline(claim, color="tab:red", linewidth=1, linestyle="--", label=labels[1])
    for place, budget in enumerate(budgets):
        mine = {arm: value for (arm, size), value in ranges.items() if size == budget}
        rows = [arms.index(arm) + 0.24 * (place - (len(budgets) - 1) / 2) for arm in mine]
        middles, widths = zip(*mine.values(), strict=True)
        label = f"{1 / budget:g} times fewer weights"
        axis.errorbar(middles, rows, xerr=widths, fmt="o", markersize=5, capsize=3, label=label)
    axis.set_yticks(range(len(arms)), arms)
    axis.invert_yaxis()
    axis.set_xlabel(labels[0])
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
