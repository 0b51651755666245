"""Imports of libraries that change global state when they are loaded."""

from __future__ import annotations

import warnings
from functools import lru_cache

__all__ = ["load_scipy"]


@lru_cache(maxsize=1)
def load_scipy() -> None:
    """Load the parts of scipy that are used here; the user's warning filters stay as they are.

    Example:
        >>> before = list(warnings.filters)
        >>> load_scipy()
        >>> warnings.filters == before
        True
    """
    with warnings.catch_warnings():
        import scipy.optimize
        import scipy.sparse.csgraph
        import scipy.sparse.linalg  # noqa: F401
