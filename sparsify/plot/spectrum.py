"""Singular values of a fabric at its initial weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from ..fabric import Fabric, Weighted
from ..init import generator, initialise
from ..ops import fabric_linear

__all__ = ["LARGEST", "singular_values"]

LARGEST = 1024
"""Features of the narrower side from which on the decomposition takes too long for a picture."""

_ENTRIES = 8 * LARGEST**2


@torch.no_grad()
def singular_values(fabric: Fabric, scheme: str) -> npt.NDArray[np.float64] | None:
    """The singular values of the whole fabric, freshly initialised with a gain of one.

    Args:
        fabric: what to materialise; a convolution's over its channels, without its taps.
        scheme: a name of `sparsify.init.INITS`.

    Returns:
        They in descending order; None where the fabric is too large.

    Example:
        >>> from sparsify.topology import Monarch
        >>> singular_values(Monarch(blocks=4).build(16, 16), "orthogonal").round(6).tolist()[-1]
        1.0
    """
    if min(fabric.in_features, fabric.out_features) > LARGEST:
        return None
    if fabric.in_features * fabric.out_features > _ENTRIES:
        return None
    plain = _without_taps(fabric)
    factors = [torch.empty(stage.shape, dtype=torch.float64) for stage in plain.stages]
    initialise(factors, plain, scheme, gain=1.0, random=generator(0, scheme))
    identity = torch.eye(plain.in_features, dtype=torch.float64)
    dense = fabric_linear(identity, factors, plain.to_json())
    values: npt.NDArray[np.float64] = torch.linalg.svdvals(dense).numpy()
    return values


def _without_taps(fabric: Fabric) -> Fabric:
    if not fabric.kernel:
        return fabric
    branches = tuple(
        tuple(replace(s, kernel=()) if isinstance(s, Weighted) and s.kernel else s for s in branch)
        for branch in fabric.branches
    )
    return replace(fabric, branches=branches)
