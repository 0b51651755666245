"""The page: what a plan does, why, and what its fabrics look like."""

from __future__ import annotations

import base64
import io
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import plot
from ..errors import ConfigError
from ..fabric import Fabric
from ..files import publish
from ..plan import Plan
from ..plot.canvas import styled, write_png
from .parts import escape, fabric_table, facts, score_table, site_table, users_of
from .style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

_MOST_DRAWN = 12
_PIXELS = 94  # of the page per inch of a picture

# Nothing may be fetched, whatever a name in the plan tries.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    plan: Plan, path: str | os.PathLike[str], *, title: str, overwrite: bool = True
) -> None:
    """Write a plan as one HTML page: numbers, budget split, reasons, fabrics with their scores.

    The page refers to nothing outside itself, runs no script, and is readable in light and dark.
    The 12 fabrics that most layers use are drawn, the others are listed.

    Args:
        plan: what to report.
        path: the file.
        title: its heading, such as the model's name.
        overwrite: whether an existing file may be replaced.

    Raises:
        ConfigError: no plan.
        MissingExtraError: matplotlib is not installed; nothing is written.
        FileError: the file cannot be written.

    Example:
        >>> import torch, sparsify as sp
        >>> plan = sp.plan(torch.nn.Linear(64, 64), budget=0.5)
        >>> write_report(plan, "plan.html", title="one layer")
    """
    if not isinstance(plan, Plan):
        raise ConfigError(f"A report is about a Plan; got {type(plan).__name__}.")
    page = "\n".join(_page(plan, title)) + "\n"
    # A name from a file may hold half a surrogate pair, which UTF-8 does not have.
    data = page.encode("utf-8", errors="xmlcharrefreplace")
    publish(path, lambda temporary: temporary.write_bytes(data), overwrite=overwrite)


def _page(plan: Plan, title: str) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}: sparsify plan</title>\n<style>{STYLE}</style>\n</head>\n<body>"
    yield f"<h1>{escape(title)}</h1>\n<p>{escape(plan.summary())}.</p>"
    yield facts(plan)
    yield "<h2>Where the parameters stay</h2>"
    yield _picture(plot.plan(plan), "Parameters of each layer, dense and planned, and its density")
    yield "<h2>Layer by layer</h2>"
    yield site_table(plan)
    yield from _fabrics(users_of(plan))
    yield "</body>\n</html>"


def _fabrics(users: list[tuple[Fabric, list[str]]]) -> Iterator[str]:
    if not users:
        return
    yield "<h2>The fabrics</h2>"
    yield (
        "<p>Masks of the stages in the order in which they are applied, paths from each input to "
        "each output, and singular values before training. Numbers marked with &asymp; are "
        "estimates.</p>"
    )
    for number, (fabric, names) in enumerate(users[:_MOST_DRAWN], 1):
        drawn = min(len(users), _MOST_DRAWN)
        logger.info("drawing fabric %d of %d: %s", number, drawn, fabric)
        yield f"<section>\n<h3>{number}. {escape(fabric.family or 'fabric')}</h3>"
        yield f"<p><code>{escape(str(fabric))}</code></p>"
        summary = f"<summary>{_count(names)}</summary>"
        yield f"<details>{summary}<p>{escape(', '.join(names))}</p></details>"
        yield _picture(plot.fabric(fabric), f"Masks, paths and singular values of {fabric}")
        yield score_table(fabric)
        yield "</section>"
    rest = users[_MOST_DRAWN:]
    if rest:
        yield f"<h3>{len(rest)} more, not drawn</h3>"
        yield fabric_table(rest)


def _count(names: list[str]) -> str:
    return f"used by {len(names)} layers" if len(names) > 1 else "used by 1 layer"


def _picture(figure: Figure, text: str) -> str:
    stream = io.BytesIO()
    with styled():
        write_png(figure, stream)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    width = round(figure.get_figwidth() * _PIXELS)
    return (
        f'<figure><img width="{width}" alt="{escape(text)}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )
