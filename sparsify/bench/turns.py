"""How long calls take beside each other: in turn, in one process, median and quartiles."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .timing import LEAST_SAMPLE, Clock

__all__ = ["MODES", "STRICT", "WARM", "Call", "Spread", "take_turns"]

Call = Callable[[], object]

STRICT, WARM = "strict", "warm"
MODES = {
    STRICT: "one call each in turn, so that each fabric finds what dense left in the caches",
    WARM: "repeated calls of each, so that each finds its own data in the caches; above 0.1 s of "
    "a call, where no cache matters, in turn",
}
"""What a round is, in words."""

LEAST_ROUNDS, MOST_ROUNDS = 5, 1000
NO_CACHE = 0.1
"""Seconds of a call to which it no longer matters what it finds in the caches: refilling all of
them takes a millisecond."""


@dataclass(frozen=True)
class Spread:
    """The seconds of one call, as several measurements gave them.

    Args:
        median: of all.
        low: the first quartile.
        high: the third quartile.
        samples: how many measurements.

    Example:
        >>> Spread.of([1.0, 2.0, 3.0, 4.0, 9.0])
        Spread(median=3.0, low=2.0, high=4.0, samples=5)
    """

    median: float
    low: float
    high: float
    samples: int

    @staticmethod
    def of(seconds: Sequence[float]) -> Spread:
        """Of at least two measurements."""
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return Spread(median, low, high, len(seconds))

    @property
    def relative(self) -> float:
        """The distance between the quartiles, over the median."""
        return (self.high - self.low) / self.median


def take_turns(
    dense: Call, others: Sequence[Call], *, mode: str, now: Clock, limit: float
) -> list[Spread]:
    """The seconds of a dense call and of its rivals, measured in rounds until the limit.

    Other programs slow a machine down for a while; rounds spread that over all. What the clock
    itself costs is taken off.

    Args:
        dense: in strict mode each rival comes directly after a call of it.
        others: the rivals.
        mode: "strict" or "warm".
        now: the clock.
        limit: seconds of the wall after which no further round begins, once there are five.

    Returns:
        The spread of dense, then those of the others.

    Example:
        >>> take_turns(int, [str], mode="strict", now=time.perf_counter, limit=0)[0].samples
        5
    """
    calls = [dense, *others]
    players = [_Player(call, mode, now) for call in calls]
    rivals = range(1, len(calls))
    order = (
        [turn for rival in rivals for turn in (0, rival)] if mode == STRICT else range(len(calls))
    )
    cost = _cost(now)
    times: list[list[float]] = [[] for _ in calls]
    start, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - start < limit):
        for turn in order:
            times[turn].append(players[turn].sample(cost))
        rounds += 1
    return [Spread.of(taken) for taken in times]


class _Player:
    """A call, and how often it is repeated in one sample."""

    def __init__(self, call: Call, mode: str, now: Clock) -> None:
        """Call it until libraries and allocators have what they keep."""
        self._call, self._now = call, now
        call()
        start = now()
        call()
        once = max(now() - start, 1e-7)
        self._is_warm = mode == WARM and once < NO_CACHE
        self._repeats = math.ceil(LEAST_SAMPLE / once) if self._is_warm else 1

    def sample(self, cost: float) -> float:
        """Seconds of one call.

        Args:
            cost: of two looks at the clock.
        """
        call, now = self._call, self._now
        if self._is_warm:
            call()
        start = now()
        for _ in range(self._repeats):
            call()
        taken = now() - start
        return max(taken - cost, 1e-9) / self._repeats


def _cost(now: Clock) -> float:
    """Seconds between two looks at the clock, nothing between them."""
    return statistics.median(-(now() - now()) for _ in range(101))
