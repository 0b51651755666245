"""The steps of a cascade: Kronecker-sparse stages with weights, and shuffles without."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .errors import ConfigError

__all__ = ["Shuffle", "Stage", "Step", "check_positive"]

# splitmix64: a published 64-bit mixer, so that a seeded shuffle is the same on every platform and
# in every version of numpy.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def check_positive(what: str, **sizes: Any) -> None:
    """Check sizes, which users write by hand and files bring along.

    Raises:
        ConfigError: one is not a whole number of 1 or more.

    Example:
        >>> check_positive("A stage", a=4, b=2)
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"{what} needs whole numbers of 1 or more; got {name}={size!r}.")


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
        with np.errstate(over="ignore"):
            keys = np.arange(1, self.size + 1, dtype=np.uint64) * _GOLDEN
            keys += np.uint64((self.seed or 0) % 2**64) * _MIX[0][1]
            for shift, factor in _MIX:
                keys = (keys ^ (keys >> shift)) * factor
            keys ^= keys >> np.uint64(31)
        return np.argsort(keys, kind="stable")

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


Step = Stage | Shuffle
