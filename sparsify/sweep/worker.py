"""One run at one point, in whatever process it is."""

from __future__ import annotations

import contextlib
import json
import platform
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from ..bench.machine import processor
from ..errors import ConfigError
from ..version import package_version
from .points import plain
from .trial import Trial

__all__ = ["attempt", "be_worker", "machine"]

_LONGEST = 8_000  # characters of a traceback: its end says what happened


def attempt(run: Callable[..., Any], name: str, point: str) -> str:
    """Call a function at a point.

    Args:
        run: the function.
        name: what it is called in the results.
        point: what to call it with, as JSON.

    Returns:
        The trial as a line, whether the function returned or raised.

    Example:
        >>> Trial.from_line(attempt(dict, "builtins:dict", '{"lr": 0.1}')).result
        {'lr': 0.1}
    """
    result, error = None, None
    start = time.perf_counter()
    try:
        with _generators_kept():
            result = _checked(run(**json.loads(point)))
    except (Exception, SystemExit) as failure:  # whatever the user's function raises
        error = _traceback(failure)
    seconds = time.perf_counter() - start
    return Trial(name, json.loads(point), result, error, seconds, machine()).to_line()


def be_worker() -> None:
    """Make this process a worker: one thread, and ctrl-C is left to the process that sweeps.

    Example:
        >>> be_worker()  # doctest: +SKIP
    """
    torch.set_num_threads(1)
    sys.stdout = sys.stderr  # what many processes print is no data
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def machine() -> dict[str, Any]:
    """Where this process runs: what results and seconds may depend on.

    Returns:
        processor and platform by name, the accelerator (None where none was used), the versions
        of Python, torch and sparsify, and the threads that torch computes with.

    Example:
        >>> sorted(machine())
        ['device', 'platform', 'processor', 'python', 'sparsify', 'threads', 'torch']
    """
    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
        "platform": platform.platform(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "sparsify": package_version(),
        "threads": torch.get_num_threads(),
    }


@cache
def _processor() -> str:
    return processor()


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Let a run seed and draw what it likes: the global generators are as before after it."""
    own, numpys, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


def _checked(result: Any) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise ConfigError(
            "A run returns a dict of values that JSON has, such as {'loss': 0.5}; this one "
            f"returned {type(result).__name__}."
        )
    checked: dict[str, Any] = plain(result, "result", is_finite=False)
    return checked


def _traceback(failure: BaseException) -> str:
    """Without our own call of the function."""
    inner = failure.__traceback__ and failure.__traceback__.tb_next
    text = "".join(traceback.format_exception(type(failure), failure, inner)).strip()
    return text if len(text) <= _LONGEST else f"...{text[-_LONGEST:]}"
