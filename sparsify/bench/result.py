"""What a comparison found: one fabric against dense in one setting, in numbers and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .turns import Spread

__all__ = ["Result", "Setting"]

SAME = 0.01
"""Ratios this close to 1 are called equal: below what a measurement can tell."""


@dataclass(frozen=True)
class Setting:
    """How something was run.

    Args:
        runtime: "torch" or "onnxruntime".
        dtype: of weights and inputs.
        threads: that might compute.
        batch: rows of the input; 0 where it has no rows.
        passes: of `sparsify.bench.arms.PASSES`.
        mode: of `sparsify.bench.turns.MODES`.
    """

    runtime: str
    dtype: str
    threads: int
    batch: int
    passes: str
    mode: str


@dataclass(frozen=True)
class Result:
    """One line of a table.

    Args:
        fabric: the fabric, or the model.
        shape: what it is, in a few words.
        dense_parameters: of the layers that were replaced.
        parameters: of their fabrics.
        kernel: what ran the fabric, with its instruction set where that is known.
        setting: how both were run.
        dense: seconds of the dense call.
        sparse: seconds of the fabric's.
        dense_bytes: what dense holds in memory: weights, and with gradients what is kept for them.
        sparse_bytes: what the fabric holds.

    Example:
        >>> setting = Setting("torch", "float32", 1, 16, "forward", "strict")
        >>> times = Spread(8e-5, 8e-5, 8e-5, 9), Spread(1e-5, 1e-5, 2e-5, 9)
        >>> result = Result("monarch", "64 -> 64", 4096, 1024, "torch", setting, *times, 1, 1)
        >>> result.efficiency, result.verdict
        (2.0, '8.0 x faster')
    """

    fabric: str
    shape: str
    dense_parameters: int
    parameters: int
    kernel: str
    setting: Setting
    dense: Spread
    sparse: Spread
    dense_bytes: int
    sparse_bytes: int

    @property
    def density(self) -> float:
        """The share of the parameters that is left."""
        return self.parameters / self.dense_parameters

    @property
    def speedup(self) -> float:
        """Dense time over the fabric's."""
        return self.dense.median / self.sparse.median

    @property
    def efficiency(self) -> float:
        """The share of the arithmetic saved that became time saved; above 1 where dense is slow."""
        return self.speedup * self.density

    @property
    def is_slower(self) -> bool:
        """Whether dense is the better choice."""
        return self.speedup < 1 - SAME

    @property
    def verdict(self) -> str:
        """The fabric beside dense, in words."""
        if self.is_slower:
            return f"{_times(1 / self.speedup)} x slower"
        return "as fast" if self.speedup < 1 + SAME else f"{_times(self.speedup)} x faster"

    def __str__(self) -> str:
        """One line of progress."""
        how = self.setting
        parts = [
            f"{self.fabric} {self.shape} in {how.runtime}",
            f"kernel {self.kernel}",
            how.dtype,
            f"{how.threads} thread{'s' * (how.threads > 1)}",
            how.passes,
            *([f"batch {how.batch:,}"] if how.batch else []),
            how.mode,
        ]
        return f"{', '.join(parts)}: {self.verdict}, efficiency {self.efficiency:.2f}"

    def to_json(self) -> dict[str, Any]:
        """As plain data; times in microseconds."""
        return {
            "fabric": self.fabric,
            "shape": self.shape,
            "dense_parameters": self.dense_parameters,
            "parameters": self.parameters,
            "density": self.density,
            "kernel": self.kernel,
            **asdict(self.setting),
            **_spread("dense", self.dense),
            **_spread("fabric", self.sparse),
            "samples": self.sparse.samples,
            "speedup": self.speedup,
            "efficiency": self.efficiency,
            "verdict": self.verdict,
            "dense_bytes": self.dense_bytes,
            "fabric_bytes": self.sparse_bytes,
        }


def _spread(name: str, spread: Spread) -> dict[str, float]:
    return {
        f"{name}_us": 1e6 * spread.median,
        f"{name}_us_q1": 1e6 * spread.low,
        f"{name}_us_q3": 1e6 * spread.high,
    }


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2f}" if ratio < 1.1 else f"{ratio:.1f}"
