"""All scores of a fabric, each turned so that higher should be better."""

from __future__ import annotations

import math

from sparsify.fabric import Fabric
from sparsify.select.gates import depth, most_stages, rank, reaches_all
from sparsify.select.rating import default_score
from sparsify.select.score import HIGHER_IS_BETTER, score
from sparsify.select.width import fast_widths

__all__ = ["scores"]


def scores(fabric: Fabric, mate: Fabric) -> dict[str, float]:
    """The default score, alone and as the planner uses it, and every single one.

    Args:
        fabric: what is rated.
        mate: the fabric of the second layer, which path uniformity looks at too.
    """
    default = default_score(fabric, mate)
    single = {**score(fabric), "path_uniformity": fast_widths(fabric, mate)[1]}
    signed = {
        key: value if HIGHER_IS_BETTER.get(key, True) else -value for key, value in single.items()
    }
    width, uniformity = fast_widths(fabric, mate)
    older = math.log(width) + 0.5 * math.log(uniformity)
    return {
        "default": default,
        "gates, default": 1000 * _gates(fabric) + default,
        "log effective width + 0.5 log path uniformity": older,
        **signed,
    }


def _gates(fabric: Fabric) -> float:
    """What comes before the score where the planner chooses: few stages, rank, connectivity."""
    width = min(fabric.in_features, fabric.out_features)
    few = depth(fabric) <= most_stages(fabric.in_features, fabric.out_features)
    return 4 * few + 2 * rank(fabric) / width + reaches_all(fabric) / width
