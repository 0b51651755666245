"""Kernels as parameters of tests. The native one is skipped, aloud, where it has no library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from sparsify.fabric import Fabric, Stage
from sparsify.native.library import why_not
from sparsify.ops import kernel_names
from tests.support.fabrics import is_served

__all__ = ["is_native", "kernels_for", "needs_library", "pairs_for"]

is_native = why_not() is None
needs_library = pytest.mark.skipif(not is_native, reason=f"no native library: {why_not()}")

_DENSE = Fabric(2, 2, ((Stage(1, 2, 2, 1),),))  # what every kernel takes


def kernels_for(fabric: Fabric = _DENSE, convolution: bool = False) -> list[Any]:
    """The kernels that take a fabric."""
    return [
        pytest.param(kernel, marks=_marks(kernel))
        for kernel in kernel_names()
        if _is_listed(kernel, fabric, convolution)
    ]


def pairs_for(
    fabrics: dict[str, Fabric], convolution: bool = False, without: Iterable[str] = ()
) -> list[Any]:
    """Pairs of a kernel and the name of a fabric that it takes."""
    return [
        pytest.param(kernel, name, marks=_marks(kernel))
        for kernel in kernel_names()
        for name, fabric in fabrics.items()
        if kernel not in without and _is_listed(kernel, fabric, convolution)
    ]


def _marks(kernel: str) -> Any:
    return needs_library if kernel == "cpu" else ()


def _is_listed(kernel: str, fabric: Fabric, convolution: bool) -> bool:
    is_missing = kernel == "cpu" and not is_native and not convolution
    return is_missing or is_served(kernel, fabric, convolution)
