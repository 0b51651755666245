"""The one family of exceptions, each with the exit code of the command line.

Every message says what was wrong, what came, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "BudgetError",
    "ConfigError",
    "FileError",
    "IncompleteError",
    "MissingExtraError",
    "ModelError",
    "NothingToDoError",
    "SparsifyError",
    "VerificationError",
    "nearest",
    "require",
]


class SparsifyError(Exception):
    """Root of everything that this package raises on purpose.

    Attributes:
        exit_code: what the command line returns for it (DESIGN.md, public face).

    Example:
        >>> BudgetError("too small").exit_code
        3
    """

    exit_code = 1


class ConfigError(SparsifyError, ValueError):
    """An argument, a name, a pattern, a rule or a plan is wrong."""

    exit_code = 2


class MissingExtraError(ConfigError, ImportError):
    """An optional dependency is not installed."""


class NothingToDoError(SparsifyError):
    """The model has no dense layer, or none that the request may replace."""

    exit_code = 3


class IncompleteError(SparsifyError):
    """Strict was asked for, and a dense operation stays dense that the user did not name."""

    exit_code = 3


class BudgetError(SparsifyError, ValueError):
    """No fabric fits into the budget."""

    exit_code = 3


class ModelError(SparsifyError):
    """A model, or a file that should hold one, is unreadable, unsupported or does not fit."""

    exit_code = 4


class VerificationError(SparsifyError):
    """The converted or exported model does not compute what it should."""

    exit_code = 5


class FileError(SparsifyError, OSError):
    """A file is missing, exists already, or cannot be read or written."""

    exit_code = 6


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Suggest the known names that look like a wrong one.

    Args:
        name: what the user wrote.
        known: what exists.
        count: suggestions at most.

    Returns:
        A sentence to append to a message, empty where nothing looks alike.

    Example:
        >>> nearest("monarc", ["clos", "monarch"])
        " Did you mean 'monarch'?"
    """
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which line installs it.

    Args:
        module: what to import.
        extra: the extra of this distribution that brings it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: it is not installed.

    Example:
        >>> require("json", "dev").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is needed here and cannot be imported ({error}). "
            f'Install it with: pip install "sparsify-fabric[{extra}]"'
        ) from error
