"""What a thread keeps between calls: memory for values that die within a call, and tapes on it.

Fresh memory of a few megabytes comes from the operating system page by page, which costs more than
the arithmetic of a fabric (measured: up to three times the whole forward pass).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Workspace", "workspace"]

KEPT_BYTES = 8 * 2**20  # of one buffer; larger ones are given back after the call
KEPT_PROGRAMS = 256

Program = TypeVar("Program")
_own = threading.local()


class Workspace:
    """Buffers by number, and whatever was built on them.

    Args:
        keeps: whether to remember what was built.
    """

    def __init__(self, keeps: bool) -> None:
        """Start empty."""
        self._keeps = keeps
        self._buffers: dict[tuple[Hashable, int], Tensor] = {}
        self._programs: OrderedDict[Hashable, object] = OrderedDict()

    def buffer(self, like: Tensor, number: int, size: int) -> Tensor:
        """Lend `size` elements of a buffer, uninitialised; callers of one number share memory."""
        key = (like.dtype, number)
        found = self._buffers.get(key)
        if found is None or found.numel() < size:
            found = torch.empty(size, dtype=like.dtype, device=like.device)
            self._buffers[key] = found
        return found[:size]

    def program(self, key: Hashable, build: Callable[[], Program]) -> Program:
        """Return what was built for a key, building it at the first call."""
        found = self._programs.get(key)
        if found is not None:
            return found  # type: ignore[return-value]
        # A tensor made in inference mode could not be written to outside of it later.
        with torch.inference_mode(False):
            built = build()
        if self._keeps:
            self._programs[key] = built
            if len(self._programs) > KEPT_PROGRAMS:
                self._programs.popitem(last=False)
        return built


@contextmanager
def workspace(like: Tensor, size: int) -> Iterator[Workspace]:
    """Lend this thread's workspace, or a new one that is dropped afterwards.

    Args:
        like: gives dtype and device.
        size: elements of the buffers that will be asked for.
    """
    if like.device.type != "cpu" or size * like.element_size() > KEPT_BYTES:
        yield Workspace(keeps=False)
        return
    # Taken out, not read: a finaliser or signal handler that runs a fabric meanwhile gets its own.
    own: Workspace = _own.__dict__.pop("workspace", None) or Workspace(keeps=True)
    try:
        yield own
    finally:
        _own.workspace = own
