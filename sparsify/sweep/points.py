"""What to run where: the points of a grid, and the name of a function."""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, nearest

__all__ = ["Grid", "check_fits", "plain", "points_of", "run_name"]

Grid = Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]]


def points_of(grid: Grid) -> list[dict[str, Any]]:
    """The points of a grid, as JSON will give them back.

    Args:
        grid: values by name, of which every combination is a point; or the points themselves.

    Raises:
        ConfigError: a name has no values, or a value is none of JSON.

    Example:
        >>> points_of({"lr": (0.1, 0.2), "depth": [2]})
        [{'lr': 0.1, 'depth': 2}, {'lr': 0.2, 'depth': 2}]
    """
    given = _product(grid) if isinstance(grid, Mapping) else grid
    points = []
    for number, point in enumerate(given):
        if not isinstance(point, Mapping):
            raise ConfigError(
                "A grid is a mapping of names to lists of values, or a list of points that map "
                f"names to values; point {number} is {_kind(point)}."
            )
        points.append(plain(point, f"point {number}", is_finite=True))
    return points


def plain(value: Any, what: str, *, is_finite: bool) -> Any:
    """A value of JSON; numbers of numpy and torch become numbers, and tuples lists.

    Args:
        value: null, true, false, numbers, text, lists and mappings by text.
        what: its name in messages.
        is_finite: whether NaN and infinity are refused.

    Raises:
        ConfigError: it is, or holds, something else.

    Example:
        >>> import numpy as np
        >>> plain({"sizes": (1, np.float32(0.5))}, "point 0", is_finite=True)
        {'sizes': [1, 0.5]}
    """
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and is_finite and not math.isfinite(value):
        raise ConfigError(
            f"{what} is {value}, which JSON has no number for. Use None, or text that the function "
            "understands."
        )
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(v, f"{what}[{i}]", is_finite=is_finite) for i, v in enumerate(value)]
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{what} is {_kind(value)}; JSON has None, True, False, numbers, text, lists, and "
            "dicts with text as keys. Give its number, or its name."
        )
    for name in value:
        if not isinstance(name, str):
            raise ConfigError(f"{what} has the key {name!r}; the keys of JSON are text.")
    return {n: plain(v, f"{what}[{n!r}]", is_finite=is_finite) for n, v in value.items()}


def run_name(run: Callable[..., Any]) -> str:
    """The name that a function's results are kept under: "module:qualname".

    A function of a script is known by the script's name, as if it were imported.

    Args:
        run: a function at the top of a module.

    Raises:
        ConfigError: its name does not say all: a lambda, an inner function, a method, a partial.

    Example:
        >>> run_name(math.sqrt)
        'math:sqrt'
    """
    module, name = getattr(run, "__module__", None), str(getattr(run, "__qualname__", "<"))
    if not callable(run) or inspect.ismethod(run) or "<" in name:
        raise ConfigError(
            "A sweep runs a function that its results can name: a def at the top of a module, not "
            f"a lambda, an inner function, a method or a partial; got {run!r}. Put what it holds "
            "into the points."
        )
    return f"{_module_name(str(module))}:{name}"


def check_fits(run: Callable[..., Any], points: Iterable[dict[str, Any]]) -> None:
    """Refuse points that a function has no arguments for, before the first of them runs.

    Raises:
        ConfigError: an argument is missing or unknown.

    Example:
        >>> check_fits(run_name, [{"ran": 1}])
        Traceback (most recent call last):
        sparsify.errors.ConfigError: run_name cannot be called with {'ran': 1}: ...
    """
    try:
        signature = inspect.signature(run)
    except (TypeError, ValueError):  # some builtins have none
        return
    for point in points:
        if misfit := _misfit(signature, point):
            unknown = [name for name in point if name not in signature.parameters]
            hint = nearest(unknown[0], signature.parameters) if unknown else ""
            raise ConfigError(
                f"{run.__name__} cannot be called with {point}: {misfit}. Its arguments are "
                f"{', '.join(signature.parameters) or 'none'}.{hint}"
            )


def _misfit(signature: inspect.Signature, point: dict[str, Any]) -> str:
    try:
        signature.bind(**point)
    except TypeError as error:
        return str(error)
    return ""


def _product(grid: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    values = []
    for name, several in grid.items():
        if isinstance(several, (str, bytes, Mapping)) or not isinstance(several, Iterable):
            raise ConfigError(f"The values of {name!r} are a list, such as [{several!r}].")
        values.append(list(several))
        if not values[-1]:
            raise ConfigError(f"{name!r} has no values; give some, or leave it out.")
    return [dict(zip(grid, choice, strict=True)) for choice in itertools.product(*values)]


def _module_name(module: str) -> str:
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name)
    return module if file is None else Path(file).stem


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
