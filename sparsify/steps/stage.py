"""Kronecker-sparse stages: the form of block diagonals, butterflies, Monarch, Clos, low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .check import check_positive

__all__ = ["Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A Kronecker-sparse factor I_a x (b by c blocks) x I_d, with an own block per (a, d).

    Input index (i_a, i_c, i_d), output index (i_a, i_b, i_d), both row-major. Block diagonal,
    butterfly, Monarch, Clos rank, low-rank factor and dense matrix are all of this form.

    Args:
        a: outer repetitions, 1 or more.
        b: outputs of a block.
        c: inputs of a block.
        d: inner repetitions; the features of a block lie d apart.
        kernel: spatial taps, e.g. (3, 3), of the one spatial stage of a convolution's fabric.

    Raises:
        ConfigError: a size is not a whole number of 1 or more.

    Example:
        >>> Stage(4, 2, 8, 1).parameters, Stage(4, 2, 8, 1).shape
        (64, (4, 1, 2, 8))
    """

    a: int
    b: int
    c: int
    d: int
    kernel: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_positive("A stage", a=self.a, b=self.b, c=self.c, d=self.d)
        if not isinstance(self.kernel, tuple):
            raise ConfigError(f"The kernel of a stage is a tuple of taps; got {self.kernel!r}.")
        for size in self.kernel:
            check_positive("The kernel of a stage", taps=size)

    @property
    def in_features(self) -> int:
        """Width of the input, a * c * d."""
        return self.a * self.c * self.d

    @property
    def out_features(self) -> int:
        """Width of the output, a * b * d."""
        return self.a * self.b * self.d

    @property
    def taps(self) -> int:
        """Spatial taps in all, 1 for a stage without a kernel."""
        return math.prod(self.kernel)

    @property
    def parameters(self) -> int:
        """Weights, a * b * c * d * taps."""
        return self.a * self.b * self.c * self.d * self.taps

    @property
    def fan_in(self) -> int:
        """Weights that meet in one output, c * taps."""
        return self.c * self.taps

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight: (a, d, b, c, *kernel)."""
        return (self.a, self.d, self.b, self.c, *self.kernel)

    def mask(self) -> npt.NDArray[np.int64]:
        """The 0/1 support over channels, (out_features, in_features)."""
        block = np.ones((self.b, self.c), np.int64)
        return np.kron(
            np.kron(np.eye(self.a, dtype=np.int64), block), np.eye(self.d, dtype=np.int64)
        )

    def to_json(self) -> list[int]:
        """As the list [a, b, c, d, *kernel]."""
        return [self.a, self.b, self.c, self.d, *self.kernel]

    @staticmethod
    def from_json(data: list[Any]) -> Stage:
        """Read what `to_json` wrote."""
        if len(data) < 4:
            raise ConfigError(f"A stage is a list [a, b, c, d, *kernel]; got {data!r}.")
        a, b, c, d, *kernel = data
        return Stage(a, b, c, d, tuple(kernel))

    def __str__(self) -> str:
        """As "(a,b,c,d)", with the kernel behind it."""
        taps = "@" + "x".join(map(str, self.kernel)) if self.kernel else ""
        return f"({self.a},{self.b},{self.c},{self.d}){taps}"
