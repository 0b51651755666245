"""Several butterflies side by side, added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..fabric import Branch, Shuffle
from .base import Topology, check_range, check_seed
from .butterfly import Butterfly
from .radices import as_tuple, one_of, splits

__all__ = ["ParallelButterfly"]

_MOST = 16
_UNEVEN = 4
_SEED_STEP = 2**16


@dataclass(frozen=True)
class ParallelButterfly(Topology):
    """A sum of butterflies: one path per branch between any input and output.

    The first branch is a plain butterfly; every further one reads the inputs in a pseudo-random
    order of its own, because a sum of equal butterflies adds parameters but few new matrices.
    Parameters kept: `branches` times those of the butterfly.

    Args:
        branches: butterflies, 1 to max(in_features, out_features).
        radices: radix of each stage, as for a butterfly.
        radix: one radix for all stages instead.
        seed: of the orders, 0 to 2**31 - 1.

    Example:
        >>> fabric = ParallelButterfly(branches=3, radix=4).build(16, 16)
        >>> fabric.parameters, int(fabric.paths().min()), int(fabric.paths().max())
        (384, 3, 3)

    Reference:
        NeuroFabric, arXiv 2002.08339.
    """

    name: ClassVar[str] = "parallel_butterfly"
    grows: ClassVar[str | None] = "branches"
    is_structured: ClassVar[bool] = False
    branches: int
    radices: Sequence[int] | None = None
    radix: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Make the radices hashable."""
        if self.radices is not None:
            object.__setattr__(self, "radices", as_tuple(self.name, "radices", self.radices))

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """Equal butterflies, a shuffle before each but the first."""
        count = check_range(self.name, "branches", self.branches, max(in_features, out_features))
        seed = _SEED_STEP * check_seed(self.name, self.seed)
        width = min(in_features, out_features)
        radices = one_of(self.name, self.radices, self.radix, width)
        (plain,) = Butterfly(radices).cascades(in_features, out_features)
        size = plain[0].in_features
        others = ((Shuffle(size, seed=seed + number), *plain) for number in range(1, count))
        return (plain, *others)

    def most(self, in_features: int, out_features: int) -> int:
        """As many as a dense matrix has weights for, 16 at most: each takes time of its own."""
        one = replace(self, branches=1).build(in_features, out_features)
        return max(1, min(_MOST, one.dense_parameters // one.parameters))

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Equal radices that are powers of two, and even splits; branches fill the budget."""
        width = min(in_features, out_features)
        powers = (2**exponent for exponent in range(1, 7) if 2**exponent < width)
        for radix in (*powers, max(width, 2)):
            yield cls(1, radix=radix)
        for radices in splits(width):
            if max(radices) <= _UNEVEN * min(radices):
                yield cls(1, radices)
