"""Choosing sites by name, pattern, class or predicate, with no pattern ever ignored."""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from .errors import ConfigError, nearest

__all__ = ["Pattern", "check_hits", "matches", "pattern_text"]

Pattern = str | type | Callable[[str, Any], bool]


class Named(Protocol):
    """What a pattern is tried on: a site's name and the module that owns it."""

    name: str


def pattern_text(pattern: Pattern) -> str:
    """How a pattern is shown in messages and plans."""
    if isinstance(pattern, str):
        return repr(pattern)
    return getattr(pattern, "__qualname__", repr(pattern))


def matches(pattern: Pattern, name: str, module: Any) -> bool:
    """Whether a pattern takes the module of that name.

    Args:
        pattern: a glob on the name ("encoder.*.fc1"), a regular expression after "re:" that must
            match the whole name, a class of modules (that of a composite owner, such as
            `nn.LSTM`, takes the layers that it is made of), or a predicate of (name, module).
        name: the dotted path of the module.
        module: the module itself; None where only names are known.

    Returns:
        The answer.

    Raises:
        ConfigError: the pattern is of another type, or its expression does not compile.

    Example:
        >>> matches("encoder.*", "encoder.0.fc1", None), matches("re:.*fc[12]", "a.fc3", None)
        (True, False)
    """
    if isinstance(pattern, str):
        if pattern.startswith("re:"):
            try:
                return re.fullmatch(pattern[3:], name) is not None
            except re.error as error:
                raise ConfigError(
                    f"The pattern {pattern!r} is no regular expression: {error}."
                ) from None
        return fnmatch.fnmatchcase(name, pattern)
    if isinstance(pattern, type):
        owner = getattr(module, "unfolded_from", type(module))
        return isinstance(module, pattern) or issubclass(owner, pattern)
    if callable(pattern) and _takes_two(pattern):
        return bool(pattern(name, module))
    raise ConfigError(
        f"A pattern is a glob, 're:' and an expression, a class or a function of (name, module); "
        f"got {pattern_text(pattern)} of type {type(pattern).__name__}."
    )


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether it can be called with a name and a module."""
    if hasattr(function, "forward"):  # a module, whose __call__ says that it takes anything
        return False
    try:
        inspect.signature(function).bind("name", "module")
    except (TypeError, ValueError):
        return False
    return True


def check_hits(
    patterns: Sequence[Pattern], named: Iterable[tuple[str, Any]], argument: str
) -> None:
    """Fail on a pattern that takes nothing: a typo must not pass in silence.

    Args:
        patterns: what the user gave.
        named: the (name, module) pairs it may take.
        argument: the name of the argument, for the message.

    Raises:
        ConfigError: a pattern takes none of them; the message lists the nearest names.

    Example:
        >>> check_hits(["fc*"], [("fc1", None)], "include")
    """
    pairs = list(named)
    names = [name for name, _ in pairs]
    for pattern in patterns:
        if not any(matches(pattern, name, module) for name, module in pairs):
            hint = nearest(pattern, names) if isinstance(pattern, str) else ""
            some = ", ".join(repr(name) for name in names[:5]) or "none"
            raise ConfigError(
                f"{argument}={pattern_text(pattern)} takes no dense layer of the model; "
                f"it has {len(names)}: {some}{' ...' if len(names) > 5 else ''}.{hint}"
            )
