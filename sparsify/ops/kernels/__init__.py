"""The kernels behind the operators, best first; each is imported when it is first asked for.

A kernel of another package enters through an entry point of the group `sparsify.kernels`.
"""

from __future__ import annotations

from ...registry import Registry

__all__ = ["KERNELS"]

KERNELS = Registry(
    "kernel",
    "sparsify.kernels",
    {
        "cpu": ".ops.kernels.native:Native",
        "torch": ".ops.kernels.portable:Portable",
        "reference": ".ops.kernels.reference:Reference",
    },
)
