"""Tables for people and programs: plain text, rich in a terminal, Markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

__all__ = ["FORMATS", "Cell", "Format", "Row", "render"]

Format = Literal["table", "json", "md"]
FORMATS: tuple[str, ...] = get_args(Format)
Cell = str | int | float | None
Row = Mapping[str, Cell]
Texts = Mapping[str, str]


def render(
    rows: Sequence[Row],
    form: str = "table",
    *,
    facts: Row | None = None,
    data: Any = None,
    styled: bool = False,
) -> str:
    """A table as text.

    Args:
        rows: the lines; all have the same keys, which are the heads. JSON keeps the values as they
            are; for people, whole numbers get separators, fractions three digits, None a dash.
        form: "table", "json" or "md".
        facts: what holds for the whole table, shown above it.
        data: what JSON shows in place of facts and rows.
        styled: whether a table may use the terminal's colours.

    Returns:
        The text, without a line break at its end.

    Example:
        >>> print(render([{"layer": "fc1", "kept": "10%"}]))
        layer  kept
        -----  ----
        fc1    10%
    """
    if form == "json":
        whole = {**(facts or {}), "rows": [dict(row) for row in rows]} if data is None else data
        return json.dumps(whole, indent=1, ensure_ascii=False)
    about = {name: _text(value) for name, value in (facts or {}).items()}
    lines = [{head: _text(value) for head, value in row.items()} for row in rows]
    if form == "md":
        return "\n\n".join(filter(None, (_markdown_facts(about), _markdown(lines))))
    if styled:
        return _rich(lines, about)
    above = [f"{name}: {value}" for name, value in about.items()]
    return "\n".join([*above, *([""] if above and rows else []), *_plain(lines)])


def _text(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else value


def _plain(rows: Sequence[Texts]) -> list[str]:
    if not rows:
        return []
    heads = list(rows[0])
    cells = [heads, *([row[head] for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    cells.insert(1, ["-" * width for width in widths])
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _markdown(rows: Sequence[Texts]) -> str:
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in rows)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in cells
    )


def _markdown_facts(facts: Texts) -> str:
    return "\n".join(f"* {name}: {value}" for name, value in facts.items())


def _rich(rows: Sequence[Texts], facts: Texts) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(force_terminal=True)
    with console.capture() as captured:
        for name, value in facts.items():
            console.print(Text.assemble((f"{name}: ", "bold"), value))
        if rows:
            table = Table(box=SIMPLE_HEAD)
            for head in rows[0]:
                table.add_column(head, overflow="fold")
            for row in rows:
                table.add_row(*(Text(cell) for cell in row.values()))
            console.print(table)
    return captured.get().rstrip("\n")
