"""Figures that share one look, whatever the user's own settings are, and their way into files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, require
from ..files import publish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "DPI", "GREY", "ORANGE", "colour", "new_figure", "plain_text", "save", "styled"]

DPI = 130

# Okabe and Ito 2008: told apart by every kind of eye, and in print. Grey is for what is kept.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#9A9A9A"
_COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800")
_HATCHES = ("", "///", "...")


@contextmanager
def styled() -> Iterator[None]:
    """Draw with matplotlib's defaults, and give the user's settings back afterwards.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "plot")
    style = require("matplotlib.style", "plot")
    with style.context(["default", {"font.size": 9, "text.parse_math": False}]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of this size in inches, unknown to pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Publish a figure as PNG; the same figure gives the same bytes.

    Raises:
        ConfigError: the path has another ending than .png.
        FileError: it cannot be written.
    """
    if not os.fspath(path).lower().endswith(".png"):
        raise ConfigError(f"Pictures are written as .png; got {os.fspath(path)!r}.")
    with styled():
        publish(path, lambda temporary: write_png(figure, temporary), overwrite=True)


def write_png(figure: Figure, file: Any) -> None:
    """Write the PNG to a path or a binary stream, without a version or a date in it."""
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def colour(position: int) -> tuple[str, str]:
    """Fill and hatch of the family at a position of the table, all different for 21 families."""
    return (
        _COLOURS[position % len(_COLOURS)],
        _HATCHES[position // len(_COLOURS) % len(_HATCHES)],
    )


def plain_text(text: str, most: int) -> str:
    """A name that every font can draw, on one line, shortened in its middle.

    Example:
        >>> plain_text("encoder.layers.10.fc1", 12), plain_text("naïve", 12)
        ('encod....fc1', 'naïve')
    """
    escaped = "".join(
        c if c.isprintable() and ord(c) < 256 else c.encode("unicode_escape").decode() for c in text
    )
    if len(escaped) <= most:
        return escaped
    half = (most - 3) // 2
    return f"{escaped[: most - 3 - half]}...{escaped[len(escaped) - half :]}"
