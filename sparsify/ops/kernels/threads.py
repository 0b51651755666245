"""The threads of the native core: torch's own, as many as `torch.get_num_threads()` says.

Torch brings an OpenMP runtime along, whose pool of threads is in the process already; a pool of our
own beside it would fight it for the processors. Where torch has no such runtime, and in a process
that was forked (the pool of its parent did not come with it), a call runs on one thread.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch

from ...native.library import Threads, library

__all__ = ["threads"]

_is_forked = False


def threads() -> int | None:
    """Where the C interface reads how many threads a call may use; None for one thread.

    Returns:
        The address of a `sparsify_threads` that lives as long as the process.
    """
    count = torch.get_num_threads()
    if count == 1 or _is_forked:
        return None
    found = _of(count)
    return None if found is None else ctypes.addressof(found)


@cache
def _of(count: int) -> Threads | None:
    native, pool = library(), _openmp()
    if native is None or pool is None:
        return None
    run = ctypes.cast(native.sparsify_openmp, ctypes.c_void_p).value
    return Threads(count, run, pool)


def _openmp() -> int | None:
    """The address of `GOMP_parallel` in the runtime that torch uses."""
    if sys.platform == "win32" or not torch.backends.openmp.is_available():
        return None
    function = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value


def _forget_threads() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
