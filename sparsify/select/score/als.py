"""How near a fabric comes to one matrix: alternating least squares from a random start.

A score compares families, so all start alike; what a user projects starts as near as it can, see
`sparsify.projection`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError
from ...fabric import Fabric
from ...projection.als import als as fit
from ...projection.chain import chains_of

__all__ = ["als"]

Matrix = npt.NDArray[np.float64]


def als(target: Matrix, fabric: Fabric, sweeps: int = 60, seed: int = 0) -> float:
    """The relative squared error of a fabric fitted to a dense matrix.

    A local minimum; where block SVDs are optimal, within 2 % of them.

    Args:
        target: (out_features, in_features).
        fabric: what to fit, without a kernel.
        sweeps: rounds over all factors, 1 or more.
        seed: of the start.

    Returns:
        min ||target - fabric||^2 / ||target||^2, as far as the sweeps reach.

    Raises:
        ConfigError: the target has another shape.

    Example:
        >>> from sparsify.topology import LowRank
        >>> als(np.outer([1.0, 2.0, 3.0], [1.0, -1.0]), LowRank(1).build(2, 3)) < 1e-9
        True
    """
    if target.shape != (fabric.out_features, fabric.in_features):
        raise ConfigError(
            f"A matrix of shape {(fabric.out_features, fabric.in_features)} can be fitted by this "
            f"fabric; got {target.shape}."
        )
    rng = np.random.default_rng(seed)
    start = [rng.standard_normal(s.shape) / np.sqrt(s.fan_in) for s in fabric.stages]
    chains = chains_of(fabric, start)
    inputs = np.eye(fabric.in_features)
    fit(chains, target, inputs, sweeps, enough=1e-6)
    error = target - sum(chain.forward(inputs) for chain in chains)
    return float((error**2).sum() / (target**2).sum())
