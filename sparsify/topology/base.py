"""What every family of fabrics has in common: options in, a fabric out."""

from __future__ import annotations

import bisect
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from ..errors import ConfigError, SparsifyError
from ..fabric import Branch, Fabric, Step

__all__ = ["Topology", "block_counts", "check_range", "check_seed", "is_balanced"]


@dataclasses.dataclass(frozen=True)
class Topology(ABC):
    """A named family that makes a fabric for given sizes; its fields are its options.

    A family is a frozen dataclass with two methods: `cascades` makes the steps for given options,
    `candidates` proposes options from which a budget is filled.

    Attributes:
        name: how users call it.
        grows: the option that multiplies every stage's parameters, if there is one; a budget is
            then filled by raising it.
        is_structured: whether its fabrics consist of Kronecker-sparse stages and strides only, for
            which there are fast kernels. The automatic choice considers these families alone.

    Example:
        >>> from sparsify.topology import Monarch
        >>> Monarch(blocks=4).build(16, 16).parameters
        128
    """

    name: ClassVar[str]
    grows: ClassVar[str | None] = None
    is_structured: ClassVar[bool] = True

    @abstractmethod
    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
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
        branches = self._made(in_features, out_features)
        try:
            return Fabric(
                in_features, out_features, branches, self.describe(in_features, out_features)
            )
        except ConfigError as error:
            raise ConfigError(
                f"{self} made no fabric {in_features} -> {out_features}. {error}"
            ) from error

    def _made(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """What `cascades` gives, with a failure of a user's own family named as that."""
        home = f"{type(self).__module__}.{type(self).__qualname__}"
        try:
            branches = self.cascades(in_features, out_features)
        except SparsifyError:
            raise
        except Exception as error:
            raise ConfigError(
                f"The topology {self} ({home}) failed for {in_features} -> {out_features}: "
                f"{type(error).__name__}: {error}"
            ) from error
        parts = (branches, *branches) if isinstance(branches, tuple) else (branches,)
        if not all(isinstance(part, tuple) for part in parts) or not all(
            isinstance(step, Step) for branch in branches for step in branch
        ):
            raise ConfigError(
                f"The topology {self} ({home}) must return a tuple of tuples of steps (Stage, "
                f"GraphStage, Shuffle) from cascades(); got {branches!r}."
            )
        return branches

    def describe(self, in_features: int, out_features: int) -> str:
        """What the fabric prints as its family: the call that makes it, and what else is to say."""
        return str(self)

    def __str__(self) -> str:
        """As the call that makes it, options at their defaults left out."""
        options = ", ".join(
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"{self.name}({options})"


def block_counts(width: int, ratio: float = 1.42) -> list[int]:
    """Numbers of blocks into which a width is cut well, ascending.

    The divisors, and in wider gaps between them counts whose blocks waste less than one block (a
    prime width would otherwise have no middle ground between one block and width blocks).

    Args:
        width: what is cut, at least 1.
        ratio: counts beside the divisors differ by at least this factor from their neighbours.

    Example:
        >>> block_counts(12), block_counts(31)
        ([1, 2, 3, 4, 6, 12], [1, 2, 3, 5, 8, 16, 31])
    """
    tight = sorted({math.ceil(width / math.ceil(width / count)) for count in range(1, width + 1)})
    divisors = [count for count in tight if width % count == 0]
    kept = [1]
    for count in tight[1:]:
        above = divisors[bisect.bisect_left(divisors, count)]
        if count == above or (count >= ratio * kept[-1] and count * ratio <= above):
            kept.append(count)
    return kept


def is_balanced(inputs_per: float, outputs_per: float, most: float) -> bool:
    """Whether two block sizes differ by at most a factor: lopsided ones are never the best.

    Example:
        >>> is_balanced(8, 32, 4), is_balanced(8, 33, 4)
        (True, False)
    """
    return inputs_per <= most * outputs_per and outputs_per <= most * inputs_per


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


def check_seed(family: str, seed: object) -> int:
    """Check the option `seed`.

    Raises:
        ConfigError: it is no whole number of 0 or more (31 bits).

    Example:
        >>> check_seed("expander", 3)
        3
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise ConfigError(
            f"{family}: seed must be a whole number from 0 to {2**31 - 1}; got {seed!r}."
        )
    return seed
