"""Options written as text: budgets and rules of the command line, and its configuration files."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from ..config import Budget, Rule
from ..errors import ConfigError, nearest
from ..files import read_text

__all__ = ["config_tokens", "parse_budget", "parse_fabric", "parse_rule"]

# The shortest pattern wins, so that a regular expression may hold "=" itself.
_RULE = re.compile(r"(?P<pattern>.+?)=(?P<family>[A-Za-z_]\w*)(?::(?P<options>.+))?", re.DOTALL)
_FABRIC = re.compile(r"(?P<family>[A-Za-z_]\w*)(?::(?P<options>.+))?", re.DOTALL)
_WORDS = {"true": True, "false": False}


def parse_budget(text: str) -> float | Budget:
    """A budget: a share, or limits by name.

    Raises:
        ConfigError: no number, an unknown name, or out of range.

    Example:
        >>> parse_budget("0.25"), parse_budget("parameters=0.25,latency_s=0.01")
        (0.25, Budget(parameters=0.25, flops=None, latency_s=0.01))
    """
    if "=" not in text:
        return _share(text)
    limits = {}
    known = tuple(field.name for field in fields(Budget))
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise ConfigError(
                f"A budget has {', '.join(f'{k}=' for k in known)}; got {name!r}."
                f"{nearest(name, known)}"
            )
        limits[name] = _share(value)
    return Budget(**limits)


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"A budget is a share above 0 and at most 1, such as 0.1; got {text!r}."
        ) from None


def parse_rule(text: str) -> Rule:
    """A rule: pattern=family:option=value,option=value; the family may be "auto" or "keep".

    Raises:
        ConfigError: a text of another form, or values that are no Python literals.

    Example:
        >>> rule = parse_rule("encoder.*=monarch:blocks=8")
        >>> rule.pattern, rule.topology, rule.options
        ('encoder.*', 'monarch', {'blocks': 8})
        >>> parse_rule("*.fc=auto:budget=0.05").budget
        0.05
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise ConfigError(
            "A rule is pattern=family, with :option=value,... behind it where wanted, such as "
            f"'encoder.*=monarch:blocks=8', or pattern=keep; got {text!r}."
        )
    options = _literals("rule", match["options"] or "", text)
    if match["family"] == "keep":
        if options:
            raise ConfigError(f"A rule that keeps layers has no options; got {text!r}.")
        return Rule(match["pattern"], keep=True)
    budget = options.pop("budget", None)
    topology = None if match["family"] == "auto" else match["family"]
    return Rule(match["pattern"], topology=topology, budget=budget, options=options)


def parse_fabric(text: str) -> tuple[str, dict[str, Any]]:
    """A fabric as in a rule: family:option=value,option=value; or the family alone.

    Returns:
        The family and its options.

    Raises:
        ConfigError: a text of another form, or values that are no Python literals.

    Example:
        >>> parse_fabric("monarch:blocks=32")
        ('monarch', {'blocks': 32})
    """
    match = _FABRIC.fullmatch(text)
    if match is None:
        raise ConfigError(
            "A fabric is a family, with :option=value,... behind it where wanted, such as "
            f"monarch:blocks=8; got {text!r}."
        )
    return match["family"], _literals("fabric", match["options"] or "", text)


def _literals(what: str, options: str, text: str) -> dict[str, Any]:
    """Values as Python literals: numbers, names of truth, strings, tuples."""
    try:
        call = ast.parse(f"f({options})", mode="eval").body
        if isinstance(call, ast.Call) and not call.args and all(k.arg for k in call.keywords):
            return {str(key.arg): _literal(key.value) for key in call.keywords}
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    raise ConfigError(
        f"The options of a {what} are option=value,... with numbers, true, false, strings or "
        f"tuples; got {text!r}."
    )


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id, node.id)
    return ast.literal_eval(node)


def config_tokens(path: str, known: Collection[str]) -> list[str]:
    """The options of a TOML or JSON file as arguments of the command line.

    Args:
        path: the file; its keys are the long options without dashes, `-` or `_` alike.
        known: the options that exist, with their dashes.

    Returns:
        Arguments to put before the user's own, which win over them.

    Raises:
        FileError: there is no such file.
        ConfigError: it is damaged, or has an unknown key.
    """
    tokens: list[str] = []
    for key, value in _read(path).items():
        option = f"--{key.replace('_', '-')}"
        if option not in known or option in ("--config", "--help"):
            names = [name.removeprefix("--") for name in known if name.startswith("--")]
            raise ConfigError(f"{path}: there is no option {key!r}.{nearest(key, names)}")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, (dict, list)):
                raise ConfigError(f"{path}: {key!r} must be a value or a list of values.")
            if item is True:
                tokens.append(option)
            elif item is not False:
                tokens.append(f"{option}={item}")
    return tokens


def _read(path: str) -> dict[str, Any]:
    text = read_text(path)
    try:
        data = json.loads(text) if path.endswith(".json") else _toml().loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values.")
    return data


def _toml() -> Any:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef,import-not-found,unused-ignore]
    return tomllib
