"""How long a call takes: the clock, the threads, the median of repeated calls."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["LEAST_SAMPLE", "Clock", "clock", "clock_name", "seconds", "use_threads"]

Clock = Callable[[], float]

LEAST_SAMPLE = 2e-4  # seconds of calls between two looks at the clock
SAMPLES = 3
ENOUGH = 0.05  # seconds of one measurement, after which two samples do


def clock(threads: int) -> Clock:
    """The processor time of this thread where it does all the work, else the wall's.

    Windows counts processor time in steps of 16 ms, which is too coarse.
    """
    return time.thread_time if _is_alone(threads) else time.perf_counter


def clock_name(threads: int) -> str:
    """What the clock shows, in words.

    Example:
        >>> clock_name(2)
        'wall time'
    """
    return "processor time of one thread" if _is_alone(threads) else "wall time"


def _is_alone(threads: int) -> bool:
    return threads == 1 and sys.platform != "win32"


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """So many threads for torch within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(call: Callable[[], object], now: Clock) -> float:
    """Median seconds of a call, warm: after two calls that are not counted.

    Args:
        call: what to measure.
        now: the clock, in seconds.

    Example:
        >>> seconds(lambda: None, clock(1)) < 1
        True
    """
    call()
    start = now()
    call()
    once = now() - start
    calls = max(1, int(LEAST_SAMPLE / max(once, 1e-7)))
    samples: list[float] = []
    while len(samples) < SAMPLES and not (len(samples) > 1 and sum(samples) * calls > ENOUGH):
        start = now()
        for _ in range(calls):
            call()
        samples.append((now() - start) / calls)
    return statistics.median(samples)
