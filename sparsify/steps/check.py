"""The check of sizes that all steps share."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError

__all__ = ["check_positive"]


def check_positive(what: str, **sizes: Any) -> None:
    """Check sizes, which users write by hand and files bring along.

    Raises:
        ConfigError: one is not a whole number of 1 or more.

    Example:
        >>> check_positive("A stage", a=4, b=2)
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"{what} needs whole numbers of 1 or more; got {name}={size!r}.")
