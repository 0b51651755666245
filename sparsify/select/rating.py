"""The default rating of fabrics: what predicts training, without data and without training."""

from __future__ import annotations

from ..fabric import Fabric
from .haar import fast_haar
from .width import fast_widths

__all__ = ["ISOMETRY_WEIGHT", "UNIFORMITY_WEIGHT", "default_score"]

ISOMETRY_WEIGHT = 0.03
UNIFORMITY_WEIGHT = 0.05
"""Chosen on the selection groups of `examples/05_does_the_score_predict.py`, and judged on others.
Any pair from (0.02, 0.02) to (0.05, 0.1) predicts about as well."""


def default_score(fabric: Fabric, follower: Fabric | None = None) -> float:
    """Higher is better, 0 is a dense layer with one path per pair: the negative sum of three costs.

    * What it cannot represent of a random orthogonal matrix (`reconstruction_haar`).
    * 0.03 times the relative variance of its squared singular values at init (`isometry`).
    * 0.05 times that of the path counts through two stacked layers, 1 / `path_uniformity` - 1.

    Args:
        fabric: the fabric to rate.
        follower: what reads its outputs; by default the fabric itself where it is square, else its
            transpose.

    Example:
        >>> from sparsify.topology import BlockDiagonal, Monarch
        >>> default_score(Monarch(8).build(64, 64)) > default_score(BlockDiagonal(4).build(64, 64))
        True

    Reference:
        NeuroFabric, arXiv 2002.08339 (rating topologies before training).
    """
    width, uniformity = fast_widths(fabric, follower)
    isometry = fabric.out_features / width - 1
    return -(
        fast_haar(fabric) + ISOMETRY_WEIGHT * isometry + UNIFORMITY_WEIGHT * (1 / uniformity - 1)
    )
