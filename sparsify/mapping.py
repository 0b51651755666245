"""Files whose bytes become memory only where they are touched, and leave it again on request."""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref

__all__ = ["map_file", "release"]

_PAGEOUT = 21  # MADV_PAGEOUT of Linux 5.4 and later, which Python does not name
_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def map_file(path: str | os.PathLike[str]) -> mmap.mmap:
    """The bytes of a file as memory; what is written there never reaches the file.

    Args:
        path: a file that is not empty.

    Raises:
        OSError: it cannot be read.

    Example:
        >>> map_file(__file__)[:3]
        b'\"\"\"'
    """
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    _mapped.add(memory)
    return memory


def release() -> None:
    """Give the pages of all mapped files back to the system, which reads them again when needed.

    Values do not change: a page that was written to stays. Whoever goes through a model layer by
    layer calls this after each, so that one layer at a time takes memory. Elsewhere than on Linux
    the system takes such pages when memory runs short, and this does nothing.

    Example:
        >>> release()
    """
    for memory in list(_mapped):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            memory.madvise(_PAGEOUT)
