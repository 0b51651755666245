"""Radices whose product is a width: what butterflies and RadiX-Nets are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..errors import ConfigError
from .base import block_counts, check_range

__all__ = ["as_tuple", "equal_radices", "one_of", "reaching", "splits"]


def as_tuple(family: str, option: str, numbers: object) -> tuple[int, ...]:
    """An option that is a sequence, hashable.

    Raises:
        ConfigError: it is none.

    Example:
        >>> as_tuple("butterfly", "radices", [4, 4])
        (4, 4)
    """
    if isinstance(numbers, str) or not isinstance(numbers, Sequence):
        raise ConfigError(f"{family}: {option} must be a sequence; got {numbers!r}.")
    return tuple(numbers)


def one_of(
    family: str, radices: Sequence[int] | None, radix: int | None, width: int
) -> tuple[int, ...]:
    """The radices that one of the two options stands for.

    Raises:
        ConfigError: both are given, or none, or they do not go with the width.

    Example:
        >>> one_of("butterfly", None, 4, 64)
        (4, 4, 4)
    """
    if (radices is None) == (radix is None):
        raise ConfigError(f"{family} needs exactly one of radices= and radix=.")
    if radices is not None:
        return reaching(family, tuple(radices), width)
    highest = max(width, 2)
    return equal_radices(check_range(family, "radix", radix, highest, lowest=2), width)


def equal_radices(radix: int, width: int) -> tuple[int, ...]:
    """As often the same radix as a width needs, the last one smaller where it does not divide.

    Example:
        >>> equal_radices(4, 61), equal_radices(4, 32), equal_radices(2, 1)
        ((4, 4, 4), (4, 4, 2), (1,))
    """
    radices: list[int] = []
    while (product := math.prod(radices)) < width:
        radices.append(min(radix, math.ceil(width / product)))
    return tuple(radices) or (1,)


def reaching(
    family: str, radices: tuple[int, ...], width: int, what: str = "the narrower width"
) -> tuple[int, ...]:
    """Check that radices multiply to a width, or to what the last one has to overshoot it by.

    Raises:
        ConfigError: they do not.

    Example:
        >>> reaching("butterfly", (8, 8), 61)
        (8, 8)
    """
    for radix in radices:
        check_range(family, "each of radices", radix, max(width, 2), lowest=min(width, 2))
    before = math.prod(radices[:-1])
    if not radices or not before * (radices[-1] - 1) < width <= before * radices[-1]:
        raise ConfigError(
            f"{family}: the radices must multiply to {width} ({what}), or to the "
            f"next number that the last radix can reach; {radices} multiply to "
            f"{math.prod(radices)}."
        )
    return radices


def splits(width: int) -> Iterator[tuple[int, ...]]:
    """Every good split of a width into two or three radices of 2 or more.

    Example:
        >>> list(splits(8))
        [(2, 4), (2, 2, 2), (4, 2)]
    """
    for first in block_counts(width):
        rest = math.ceil(width / first)
        if first < 2 or rest < 2:
            continue
        yield (first, rest)
        for second in block_counts(rest):
            third = math.ceil(rest / second)
            if second >= 2 and third >= 2:
                yield (first, second, third)
