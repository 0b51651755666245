"""What `sparsify sweep` runs and shows: the grid from its words, the trials as a table."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import ConfigError, ModelError
from ..frontend.factory import Factory, current_folder, find
from ..report import Cell, Row
from ..sweep import Trial, sweep

__all__ = ["check_passed", "parse_grid", "rows", "swept"]

_WIDEST = 60  # characters of a cell
_MISSPELT = {  # Python's words and what JSON has none for: as text they would all be true
    **{"True": "true", "False": "false", "None": "null"},
    **dict.fromkeys(("NaN", "nan", "inf", "-inf", "Infinity", "-Infinity"), "a number"),
}


def swept(args: argparse.Namespace) -> list[Trial]:
    """Run what a command line asks for.

    Args:
        args: of the verb `sweep`.

    Raises:
        ConfigError: the function or the grid is wrong.
        SparsifyError: as `sweep`.
    """
    grid = parse_grid(args.grid)
    if not Factory.accepts(args.run):
        raise ConfigError(
            f"sweep runs a function, such as my.study:train; got {args.run!r}. It is called with "
            "a value for each NAME and returns a dict."
        )
    with current_folder(), contextlib.redirect_stdout(sys.stderr):  # prints are no data
        run = find(args.run, "trains or measures something and returns a dict")
        return sweep(run, grid, args.output, jobs=args.jobs, engine=args.engine)


def parse_grid(words: Iterable[str]) -> dict[str, list[Any]]:
    """Values by name from words such as `lr=0.001,0.002`: JSON where they are, else text.

    Raises:
        ConfigError: a word of another form, a name that comes twice, a value such as True.

    Example:
        >>> parse_grid(["topology=monarch,clos", "sizes=[64,64],[128,128]"])
        {'topology': ['monarch', 'clos'], 'sizes': [[64, 64], [128, 128]]}
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not (name and equals and values):
            raise ConfigError(f"A sweep goes over name=value,value,...; got {word!r}.")
        if name in grid:
            raise ConfigError(f"{name} comes twice; give all of its values in one word.")
        grid[name] = _values(values)
    return grid


def rows(trials: Sequence[Trial]) -> list[Row]:
    """One line for each trial: its point, its result, its seconds, and an error where there is one.

    Example:
        >>> rows([Trial("my.study:train", {"lr": 0.1}, {"loss": 2.5}, None, 60.0, {})])
        [{'lr': 0.1, 'loss': 2.5, 'seconds': 60.0}]
    """
    points = _names(trial.point for trial in trials)
    results = _names(trial.result or {} for trial in trials)
    has_errors = any(trial.error for trial in trials)
    return [
        {
            **{name: _cell(trial.point.get(name)) for name in points},
            **{
                f"{name} (result)" if name in points else name: _cell(
                    (trial.result or {}).get(name)
                )
                for name in results
            },
            "seconds": trial.seconds,
            **({"error": _cell(_reason(trial))} if has_errors else {}),
        }
        for trial in trials
    ]


def check_passed(trials: Sequence[Trial], path: str) -> None:
    """Refuse to call a sweep done in which a run failed.

    Raises:
        ModelError: one did.

    Example:
        >>> check_passed([], "results.jsonl")
    """
    if failed := [trial for trial in trials if trial.error]:
        raise ModelError(
            f"{len(failed)} of {len(trials)} runs failed; {path} has the tracebacks, and the same "
            f"command runs only these again. The first: {json.dumps(failed[0].point)}: "
            f"{_reason(failed[0])}"
        )


def _values(text: str) -> list[Any]:
    values: list[Any] = []
    start = 0
    while start <= len(text):
        value, end = _value(text, start)
        values.append(value)
        start = end + 1
    return values


def _value(text: str, start: int) -> tuple[Any, int]:
    """The value that starts there and where it ends: JSON, which may hold commas, or else text."""
    with contextlib.suppress(ValueError):
        value, end = json.JSONDecoder(parse_constant=_no_number).raw_decode(text, start)
        if end == len(text) or text[end] == ",":
            return value, end
    end = f"{text},".index(",", start)
    if end == start:
        raise ConfigError(f'A value is missing in {text!r}; an empty text is written "".')
    value = text[start:end]
    if value in _MISSPELT:
        raise ConfigError(
            f'Values are JSON or text: write {_MISSPELT[value]}, or "{value}" in quotes'
            f" for the text; got {value}."
        )
    return value, end


def _no_number(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are text, as nan and inf are


def _names(mappings: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _reason(trial: Trial) -> str | None:
    return trial.error and trial.error.splitlines()[-1]


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
