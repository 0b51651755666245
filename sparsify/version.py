"""The version of this package, as the installation knows it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_version"]


@cache
def package_version() -> str:
    """The version of the installed distribution; "0+source" where there is only the source.

    Example:
        >>> bool(package_version())
        True
    """
    try:
        return version("sparsify-fabric")
    except PackageNotFoundError:
        return "0+source"
