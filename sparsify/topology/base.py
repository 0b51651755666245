"""What every family of fabrics has in common: options in, a fabric out."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from ..errors import ConfigError
from ..fabric import Branch, Fabric

__all__ = ["Topology", "block_counts", "check_range"]


@dataclasses.dataclass(frozen=True)
class Topology(ABC):
    """A named family that makes a fabric for given sizes; its fields are its options.

    A family is a frozen dataclass with two methods: `branches` makes the steps for given options,
    `candidates` proposes options from which a budget is filled.

    Attributes:
        name: how users call it.
        grows: the option that multiplies every stage's parameters, if there is one; a budget is
            then filled by raising it.

    Example:
        >>> from sparsify.topology import Monarch
        >>> Monarch(blocks=4).build(16, 16).parameters
        128
    """

    name: ClassVar[str]
    grows: ClassVar[str | None] = None

    @abstractmethod
    def branches(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """The cascades for these sizes.

        Raises:
            ConfigError: an option does not go with the sizes.
        """

    @classmethod
    @abstractmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Option settings worth considering for these sizes, with the growing option at 1."""

    def most(self, in_features: int, out_features: int) -> int:
        """The largest useful value of the growing option, for the other options as they are."""
        return 1

    def build(self, in_features: int, out_features: int) -> Fabric:
        """Make the fabric.

        Args:
            in_features: width of the input, at least 1.
            out_features: width of the output, at least 1.

        Raises:
            ConfigError: an option does not go with the sizes.
        """
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ConfigError(f"{name} must be a whole number of 1 or more; got {size!r}.")
        return Fabric(
            in_features, out_features, self.branches(in_features, out_features), str(self)
        )

    def __str__(self) -> str:
        """As the call that makes it, options at their defaults left out."""
        options = ", ".join(
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"{self.name}({options})"


def block_counts(width: int) -> list[int]:
    """Numbers of blocks into which a width is cut well, ascending.

    The divisors, where the width has some; else every count whose blocks waste less than one block
    (a prime width would otherwise have no middle ground between one block and width blocks).

    Example:
        >>> block_counts(12), block_counts(7)
        ([1, 2, 3, 4, 6, 12], [1, 2, 3, 4, 7])
    """
    divisors = [count for count in range(1, width + 1) if width % count == 0]
    if len(divisors) > 4:
        return divisors
    tight = {math.ceil(width / math.ceil(width / count)) for count in range(1, width + 1)}
    return sorted(tight)


def check_range(family: str, option: str, value: object, highest: int, lowest: int = 1) -> int:
    """Check a whole-number option.

    Raises:
        ConfigError: it is none, or out of range.

    Example:
        >>> check_range("monarch", "blocks", 4, 16)
        4
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not lowest <= value <= highest:  # type: ignore[operator]
        raise ConfigError(
            f"{family}: {option} must be a whole number from {lowest} to {highest} for these "
            f"sizes; got {value!r}."
        )
    return value  # type: ignore[return-value]
