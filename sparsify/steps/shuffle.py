"""A fixed permutation of features between stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .check import check_positive
from .scramble import permutations

__all__ = ["Shuffle"]


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A fixed permutation of features without weights: output i reads input permutation()[i].

    Args:
        size: features, 1 or more.
        stride: transpose the features seen as a (size / stride, stride) matrix; mere addressing.
        seed: draw the permutation at random instead, the same one on every machine.

    Raises:
        ConfigError: not exactly one of stride and seed, or a stride that does not divide the size.

    Example:
        >>> Shuffle(6, stride=2).permutation().tolist()
        [0, 2, 4, 1, 3, 5]
    """

    size: int
    stride: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check that one kind is asked for."""
        check_positive("A shuffle", size=self.size)
        if (self.stride is None) == (self.seed is None):
            raise ConfigError("A shuffle needs exactly one of stride= and seed=.")
        if self.stride is None:
            if not isinstance(self.seed, int) or isinstance(self.seed, bool):
                raise ConfigError(f"The seed of a shuffle is a whole number; got {self.seed!r}.")
            return
        check_positive("A shuffle", stride=self.stride)
        if self.size % self.stride:
            raise ConfigError(
                f"The stride of a shuffle must divide its size {self.size}; got {self.stride}."
            )

    parameters: ClassVar[int] = 0
    kernel: ClassVar[tuple[int, ...]] = ()

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.size

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.size

    def permutation(self) -> npt.NDArray[np.int64]:
        """The input that each output reads, (size,)."""
        if self.stride is not None:
            grid = np.arange(self.size).reshape(self.size // self.stride, self.stride)
            return np.ascontiguousarray(grid.T).reshape(self.size)
        (order,) = permutations(1, self.size, self.seed or 0)
        return np.asarray(order)

    def mask(self) -> npt.NDArray[np.int64]:
        """The permutation matrix, (size, size)."""
        matrix = np.zeros((self.size, self.size), np.int64)
        matrix[np.arange(self.size), self.permutation()] = 1
        return matrix

    def to_json(self) -> dict[str, int]:
        """As an object with the size and its kind."""
        kind = {"stride": self.stride} if self.stride is not None else {"seed": self.seed or 0}
        return {"size": self.size, **kind}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Shuffle:
        """Read what `to_json` wrote."""
        return Shuffle(data["size"], stride=data.get("stride"), seed=data.get("seed"))

    def __str__(self) -> str:
        """As "stride s" or "shuffle seed"."""
        kind = f"stride {self.stride}" if self.stride is not None else f"shuffle {self.seed}"
        return f"[{kind}]"
