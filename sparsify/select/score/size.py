"""What a fabric has: weights and stages."""

from __future__ import annotations

from ...fabric import Fabric, Weighted

__all__ = ["parameters", "stages"]


def parameters(fabric: Fabric) -> float:
    """Weights in total, biases not counted."""
    return float(fabric.parameters)


def stages(fabric: Fabric) -> float:
    """Stages in a row, of the longest branch.

    Example:
        >>> from sparsify.topology import Clos
        >>> stages(Clos(ingress=4, middle=2).build(16, 16))
        3.0

    Reference:
        ClosNets, arXiv 1802.03885 (shallowness).
    """
    return float(max(sum(isinstance(s, Weighted) for s in branch) for branch in fabric.branches))
