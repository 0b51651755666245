"""A plan as bars: where the parameters were, and where they stay."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..plan import Plan, Site
from ..topology import topologies
from .canvas import GREY, colour, new_figure, plain_text, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plan"]

_MOST_SITES = 40  # a bar each up to here; above, layers that are alike share one
_MOST_BARS = 50
_BAR = 0.23  # inches
_KEPT = "kept dense"


@dataclass(frozen=True)
class _Bar:
    """One layer, or layers that are alike."""

    name: str
    sites: tuple[Site, ...]
    family: str

    @property
    def dense(self) -> int:
        """Dense parameters of all."""
        return sum(site.dense_parameters for site in self.sites)

    @property
    def left(self) -> int:
        """Parameters that stay."""
        return sum(site.parameters for site in self.sites)

    @property
    def label(self) -> str:
        """The name, with how many share it."""
        times = f"  x{len(self.sites)}" if len(self.sites) > 1 else ""
        return plain_text(self.name, 58) + times


def plan(plan: Plan, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw what a plan does with the parameters, layer by layer.

    Bars show those of the dense layer, those that stay, coloured by family, and their share. Layers
    that are kept dense are grey. Above 40 layers, those alike (same names but for numbers, same
    shape and fabric) share a bar; of more than 50 bars the largest are drawn.

    Args:
        plan: what to draw.
        path: a .png file to write, replaced where it exists.

    Returns:
        The figure, unknown to pyplot.

    Raises:
        ConfigError: no plan, or a path of another ending.
        MissingExtraError: matplotlib is not installed.
        FileError: the file cannot be written.

    Example:
        >>> import torch, sparsify as sp
        >>> from sparsify import plot
        >>> figure = plot.plan(sp.plan(torch.nn.Linear(256, 256), budget=0.25), "plan.png")
        >>> len(figure.axes)
        2
    """
    if not isinstance(plan, Plan):
        raise ConfigError(f"plot.plan draws a Plan; got {type(plan).__name__}.")
    with styled():
        figure = _draw(plan)
    if path is not None:
        save(figure, path)
    return figure


def _draw(plan: Plan) -> Figure:
    bars, note = _bars(plan.sites)
    names, left, right, top = 4.3, 4.6, 1.5, 1.2 if note else 1.0
    width, tall = names + left + 1.7 + right + 0.6, max(1, len(bars)) * _BAR
    height = top + tall + 0.5
    figure = new_figure(width, height)
    box = (0.5 / height, tall / height)
    amounts = figure.add_axes((names / width, box[0], left / width, box[1]))
    shares = figure.add_axes(((names + left + 1.7) / width, box[0], right / width, box[1]))
    _draw_amounts(amounts, bars)
    _draw_shares(shares, bars, plan)
    inch = 1 / height
    figure.text(0.15 / width, 1 - 0.1 * inch, "Budget split", va="top", fontsize=11, weight="bold")
    figure.text(0.15 / width, 1 - 0.33 * inch, plan.summary(), va="top", color="#444444")
    if note:
        figure.text(0.15 / width, 1 - 0.53 * inch, note, va="top", color="#444444")
    _legend(figure, bars)
    return figure


def _bars(sites: Sequence[Site]) -> tuple[list[_Bar], str]:
    """What to draw, and a note where that is less than everything."""
    if len(sites) <= _MOST_SITES:
        return [_Bar(site.name or "(the model)", (site,), _family(site)) for site in sites], ""
    groups: dict[tuple[object, ...], list[Site]] = {}
    for site in sites:
        name = re.sub(r"(?<![^.])\d+(?![^.])", "*", site.name)
        shape = (site.kind, site.in_features, site.out_features, site.kernel, site.groups)
        groups.setdefault((name, *shape, _family(site), site.parameters), []).append(site)
    bars = [_Bar(str(key[0]), tuple(group), _family(group[0])) for key, group in groups.items()]
    note = f"{len(sites)} layers; layers that are alike share a bar, which shows their sum."
    if len(bars) > _MOST_BARS:
        largest = sorted(bars, key=lambda bar: -bar.dense)[:_MOST_BARS]
        missing = sum(len(bar.sites) for bar in bars) - sum(len(bar.sites) for bar in largest)
        bars = [bar for bar in bars if bar in largest]
        note += f" The largest {_MOST_BARS} are drawn; {missing} smaller layers are not."
    return bars, note


def _family(site: Site) -> str:
    if site.fabric is None:
        return _KEPT
    return site.fabric.family.partition("(")[0] or "fabric"


def _fill(family: str) -> tuple[str, str]:
    if family == _KEPT:
        return GREY, ""
    names = (*topologies(), "fabric")
    return colour(names.index(family) if family in names else len(names))


def _draw_amounts(axes: Axes, bars: Sequence[_Bar]) -> None:
    longest = max((bar.dense for bar in bars), default=1) or 1
    for row, bar in enumerate(bars):
        fill, hatch = _fill(bar.family)
        axes.barh(row, bar.dense, height=0.72, facecolor="#E9E9E9", edgecolor="#B5B5B5", lw=0.5)
        axes.barh(row, bar.left, height=0.72, facecolor=fill, hatch=hatch, edgecolor="white", lw=0)
        text = f"{bar.dense:,}" if bar.left == bar.dense else f"{bar.dense:,} -> {bar.left:,}"
        axes.text(longest * 1.025, row, text, va="center", fontsize=7.5)
        axes.text(-longest * 0.015, row, bar.label, va="center", ha="right", fontsize=7.5)
    axes.set_xlim(0, 1.01 * longest)
    axes.set_title("parameters: dense (pale) and what stays (colour)", loc="left", fontsize=8.5)
    axes.xaxis.set_major_formatter(_short)
    _frame(axes, len(bars))


def _draw_shares(axes: Axes, bars: Sequence[_Bar], plan: Plan) -> None:
    for row, bar in enumerate(bars):
        fill, hatch = _fill(bar.family)
        share = bar.left / bar.dense if bar.dense else 1.0
        axes.barh(row, share, height=0.72, facecolor=fill, hatch=hatch, edgecolor="white", lw=0)
        axes.text(1.03, row, f"{share:.1%}", va="center", fontsize=7.5)
    budget = plan.budget.parameters
    if budget is not None:
        axes.axvline(budget, color="black", lw=1, ls=":")
    about = "" if budget is None else f" (dotted: {budget:.3g} overall)"
    axes.set_xlim(0, 1)
    axes.set_title(f"density{about}", loc="left", fontsize=8.5)
    _frame(axes, len(bars))


def _frame(axes: Axes, rows: int) -> None:
    axes.set_ylim(max(rows, 1) - 0.5, -0.5)
    axes.set_yticks([])
    axes.tick_params(labelsize=7, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(value: float, _: float) -> str:
    """A number as 1.5M, for an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _legend(figure: Figure, bars: Sequence[_Bar]) -> None:
    from matplotlib.patches import Patch

    families = list(dict.fromkeys(bar.family for bar in bars))
    patches = [
        Patch(facecolor=_fill(name)[0], hatch=_fill(name)[1], edgecolor="white", label=name)
        for name in families
    ]
    if patches:
        place = (1 - 0.1 / figure.get_figwidth(), 1 - 0.05 / figure.get_figheight())
        figure.legend(
            handles=patches,
            loc="upper right",
            bbox_to_anchor=place,
            ncols=min(4, len(patches)),
            fontsize=7.5,
            frameon=False,
        )
