"""Layers that are measured together under one name, each as a user would ask for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SUITES", "Layer"]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Args:
        fabric: "family:option=value,...", or a family, or "auto"; the last two with a budget.
        in_features: width of the input.
        out_features: width of the output.
        budget: share of the parameters that may stay, where the fabric has no options.
    """

    fabric: str
    in_features: int
    out_features: int
    budget: str = "0.1"


SUITES = {
    "readme": (
        Layer("monarch:blocks=32", 1024, 1024),
        Layer("monarch:blocks_in=32,blocks_out=32,links=2", 2048, 2048),
        Layer("monarch:blocks=64", 4096, 4096),
        Layer("clos:ingress=64,middle=64", 4096, 4096),
        Layer("butterfly:radix=16", 4096, 4096),
        Layer("butterfly:radix=8", 4096, 4096),
        Layer("butterfly:radix=4", 4096, 4096),
        Layer("auto", 768, 3072, "0.08"),
        Layer("auto", 3072, 768, "0.08"),
    ),
}
"""By name. "readme": blocks of 4 to 128, two to six stages, square and not."""
