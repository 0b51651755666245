"""One fabric as a row of pictures: its steps, its paths end to end, its singular values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..fabric import Fabric, Shuffle
from .canvas import BLUE, ORANGE, new_figure, plain_text, save, styled
from .matrices import MOST, Matrix, mask_of, paths_of
from .spectrum import LARGEST, singular_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fabric"]

_SIDE, _GAP, _HEAD, _TOP = 2.3, 0.64, 0.6, 0.55  # inches: panel, between, above a panel, heading
_MOST_BRANCHES, _MOST_STEPS = 6, 16


def fabric(fabric: Fabric, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw a fabric as a row of pictures.

    First the mask of each step in order of application, one row per branch; then how many paths
    lead from each input to each output; then the singular values at initial weights.
    Above 512 features several share a cell, above 1024 there are no singular values: the picture
    says so.

    Args:
        fabric: what to draw.
        path: a .png file to write, replaced where it exists.

    Returns:
        The figure, unknown to pyplot.

    Raises:
        ConfigError: no fabric, or a path of another ending.
        MissingExtraError: matplotlib is not installed.
        FileError: the file cannot be written.

    Example:
        >>> import sparsify as sp
        >>> from sparsify import plot
        >>> figure = plot.fabric(sp.fabric("monarch", 64, 64, blocks=8), "monarch.png")
        >>> [axes.get_title(loc="left").splitlines()[0] for axes in figure.axes[:2]]
        ['stage 1 of 2', 'stage 2 of 2']

    Reference:
        ClosNets, arXiv 1802.03885 (path diversity, shallowness).
    """
    if not isinstance(fabric, Fabric):
        raise ConfigError(f"plot.fabric draws a Fabric; got {type(fabric).__name__}.")
    with styled():
        figure = _draw(fabric)
    if path is not None:
        save(figure, path)
    return figure


def _draw(fabric: Fabric) -> Figure:
    branches = fabric.branches[:_MOST_BRANCHES]
    columns = min(_MOST_STEPS, max(len(branch) for branch in branches)) + 2
    width = _GAP + columns * (_SIDE + _GAP) + 0.2
    height = _TOP + len(branches) * (_HEAD + _SIDE + _GAP - 0.2)
    figure = new_figure(width, height)

    def panel(row: int, column: int) -> Axes:
        left = _GAP + column * (_SIDE + _GAP)
        bottom = height - _TOP - (row + 1) * (_HEAD + _SIDE) - row * (_GAP - 0.2)
        return figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))

    matrices = [
        _draw_step(panel(row, column), fabric, row, column)
        for row, branch in enumerate(branches)
        for column in range(min(_MOST_STEPS, len(branch)))
    ]
    matrices.append(_draw_paths(panel(0, columns - 2), fabric))
    _draw_spectrum(panel(0, columns - 1), fabric)
    _head(figure, fabric, any(matrix.is_scaled for matrix in matrices))
    return figure


def _head(figure: Figure, fabric: Fabric, is_scaled: bool) -> None:
    name = plain_text(fabric.family or "fabric", 90)
    sizes = f"{fabric.in_features} -> {fabric.out_features}"
    kernel = "x".join(map(str, fabric.kernel))
    title = f"{name}, {sizes}" + (f", kernel {kernel} (drawn over its channels)" if kernel else "")
    notes = [f"{fabric.parameters:,} parameters, density {fabric.density:.1%}"]
    if len(fabric.branches) > 1:
        notes.append(f"sum of {len(fabric.branches)} branches, a row each")
    if len(fabric.branches) > _MOST_BRANCHES:
        notes.append(f"the first {_MOST_BRANCHES} drawn")
    if any(len(branch) > _MOST_STEPS for branch in fabric.branches):
        notes.append(f"the first {_MOST_STEPS} steps drawn")
    if is_scaled:
        notes.append(f"above {MOST} features scaled down: a cell shows its filled share")
    inch = 1 / figure.get_figheight()
    left = _GAP / figure.get_figwidth()
    figure.text(left, 1 - 0.12 * inch, title, va="top", fontsize=11, fontweight="bold")
    figure.text(left, 1 - 0.36 * inch, "; ".join(notes), va="top", color="#444444")


def _draw_step(axes: Axes, fabric: Fabric, branch: int, position: int) -> Matrix:
    step = fabric.branches[branch][position]
    matrix = mask_of(fabric, branch, position)
    steps = fabric.branches[branch]
    if isinstance(step, Shuffle):
        name = "shuffle"
    else:
        stages = [s for s in steps if not isinstance(s, Shuffle)]
        name = f"stage {_number(steps, position)} of {len(stages)}"
    if len(fabric.branches) > 1:
        name = f"branch {branch + 1}, {name}"
    height = fabric.out_features if position == len(steps) - 1 else step.out_features
    width = fabric.in_features if position == 0 else step.in_features
    lines = (name, plain_text(str(step).strip("[]"), 40), f"{width} -> {height}{_cell(matrix)}")
    _show(axes, matrix, (height, width), "Blues", lines)
    return matrix


def _number(steps: tuple[object, ...], position: int) -> int:
    """Which stage it is, shuffles not counted."""
    return sum(not isinstance(step, Shuffle) for step in steps[: position + 1])


def _cell(matrix: Matrix) -> str:
    return f", cell = {matrix.rows} x {matrix.columns}" if matrix.is_scaled else ""


def _draw_paths(axes: Axes, fabric: Fabric) -> Matrix:
    matrix = paths_of(fabric)
    low, high = matrix.values.min(), matrix.values.max()
    counts = f"{low:.3g}" if high - low < 1e-9 else f"{low:.3g} (yellow) to {high:.3g} (blue)"
    if low < 1e-9:
        counts = f"none (white) to {high:.3g} (blue)"
    lines = ("paths end to end", f"per pair: {counts}", _cell(matrix).strip(", "))
    _show(axes, matrix, (fabric.out_features, fabric.in_features), "cividis_r", lines)
    return matrix


def _show(
    axes: Axes, matrix: Matrix, shape: tuple[int, int], colours: str, lines: tuple[str, ...]
) -> None:
    import numpy as np

    height, width = shape
    values = np.ma.masked_equal(matrix.values, 0.0)
    high = matrix.values.max()
    axes.imshow(
        values,
        cmap=colours,
        vmin=0,
        vmax=high,
        aspect="auto",
        extent=(0, width, height, 0),
    )
    axes.set_box_aspect(min(1.0, max(0.4, height / width)))
    axes.set_anchor("NW")
    axes.set_title("\n".join(lines), loc="left", fontsize=8)
    axes.set_xticks([0, width])
    axes.set_yticks([0, height])
    axes.tick_params(labelsize=7, length=2)
    axes.set_xlabel("input", fontsize=8, labelpad=-8)
    axes.set_ylabel("output", fontsize=8, labelpad=-12)


def _draw_spectrum(axes: Axes, fabric: Fabric) -> None:
    found = {scheme: singular_values(fabric, scheme) for scheme in ("orthogonal", "variance")}
    axes.set_title("singular values at init", loc="left", fontsize=8)
    axes.tick_params(labelsize=7, length=2)
    axes.set_xlabel("rank", fontsize=8)
    for (scheme, values), colour, line in zip(
        found.items(), (BLUE, ORANGE), ("-", "--"), strict=True
    ):
        if values is None:
            note = f"not computed above\n{LARGEST} features"
            axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center")
            axes.set_xticks([])
            axes.set_yticks([])
            return
        axes.plot(range(1, len(values) + 1), values, line, color=colour, label=scheme)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
