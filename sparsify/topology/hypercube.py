"""Hypercubes, dimension by dimension or by their edges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError
from ..fabric import Branch, GraphStage, Stage
from .base import Topology
from .nodes import rounded

__all__ = ["Hypercube"]

_KINDS = ("dimensions", "adjacency")


@dataclass(frozen=True)
class Hypercube(Topology):
    """The nodes of a hypercube: a power of two of them, as many as the narrower width needs.

    By dimensions, each stage joins the two ends of all edges along one of them: after the last one
    every input has reached every output. By adjacency, one stage reads the neighbours at once.
    The wider side has several features per node; what does not fit wraps.
    Parameters kept for n = 2**m: 2 * n * m by dimensions, n * m by adjacency.

    Args:
        stages: "dimensions" or "adjacency".

    Example:
        >>> Hypercube().build(16, 16).parameters, Hypercube("adjacency").build(16, 16).parameters
        (128, 64)
    """

    name: ClassVar[str] = "hypercube"
    is_structured: ClassVar[bool] = False
    stages: str = "dimensions"

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        """One stage per bit, the most significant where a side is wider; or the one graph."""
        if self.stages not in _KINDS:
            raise ConfigError(
                f"hypercube: stages must be 'dimensions' or 'adjacency'; got {self.stages!r}."
            )
        bits = (min(in_features, out_features) - 1).bit_length()
        inputs, outputs = rounded(in_features, 2**bits), rounded(out_features, 2**bits)
        if self.stages == "adjacency":
            if not bits:
                raise ConfigError(
                    f"hypercube: stages='adjacency' needs two features or more on both sides; "
                    f"got {in_features} -> {out_features}."
                )
            degree = bits * inputs // 2**bits
            return ((GraphStage("hypercube", inputs, outputs, degree),),)
        return (_joins(inputs >> bits, bits, outputs >> bits),)

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        """Both kinds."""
        yield cls()
        if min(in_features, out_features) > 1:
            yield cls("adjacency")


def _joins(per_input: int, bits: int, per_output: int) -> Branch:
    """A stage per bit; the top bit is next to the blocks of the wider side, and merges them."""
    if not bits:
        return (Stage(1, per_output, per_input, 1),)
    order = range(bits) if per_input == 1 else range(bits - 1, -1, -1)
    stages = [Stage(2 ** (bits - 1 - bit), 2, 2, 2**bit) for bit in order]
    top = 2 ** (bits - 1)
    if per_input > 1:
        stages[0] = Stage(1, 2, 2 * per_input, top)
    if per_output > 1:
        wide = stages[-1].c if bits == 1 else 2
        stages[-1] = Stage(1, 2 * per_output, wide, top)
    return tuple(stages)
