"""Equal fabrics that differ in which features stand side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..fabric import Branch, Fabric, Shuffle, Stage, Step
from .fit import project
from .problem import Projection

__all__ = ["best_variant", "variants"]

_TRIED = 2
"""Sweeps that tell variants apart, where there is no closed form."""

_CLEARLY = 1e-6
_ROUNDING = 1e-14
"""A gain, relative and absolute, that is no rounding."""


def variants(fabric: Fabric) -> Iterator[Fabric]:
    """The fabric, then those that take neighbouring inputs or outputs for strided ones.

    Where the blocks of its first stage read neighbouring features, a variant's read features as far
    apart as there are blocks, and the other way round; the same for what the last stage writes.
    All have as many parameters, and strides are mere addressing. Ends that are one block, a graph
    or a seeded shuffle have no variant.

    Example:
        >>> from sparsify.topology import Monarch
        >>> for variant in variants(Monarch(blocks=4).build(16, 16)):
        ...     print(" ".join(map(str, variant.branches[0])))
        (4,4,4,1) (1,4,4,4)
        [stride 4] (4,4,4,1) (1,4,4,4)
        (4,4,4,1) (1,4,4,4) [stride 4]
        (1,4,4,4) (4,4,4,1)
    """
    seen = {fabric.branches}
    yield fabric
    for inputs, outputs in ((True, False), (False, True), (True, True)):
        branches = tuple(_turned(branch, inputs, outputs) for branch in fabric.branches)
        if branches not in seen:
            seen.add(branches)
            ends = " and ".join(["inputs"] * inputs + ["outputs"] * outputs)
            family = f"{fabric.family}, transposed {ends}" if fabric.family else ""
            yield replace(fabric, branches=branches, family=family)


def best_variant(
    weight: Any, fabric: Fabric, covariance: Any = None, *, groups: int = 1
) -> tuple[Fabric, Projection]:
    """The variant of a fabric with the least error for a weight, and its projection.

    Args:
        weight: as for `project`.
        fabric: as for `project`; itself a variant, and the one taken among equals.
        covariance: as for `project`.
        groups: as for `project`.

    Raises:
        ConfigError: as for `project`.
        ModelError: as for `project`.

    Example:
        >>> import numpy as np
        >>> from sparsify.topology import BlockDiagonal
        >>> perfect_shuffle = np.eye(16).reshape(4, 4, 16).transpose(1, 0, 2).reshape(16, 16)
        >>> blocks = BlockDiagonal(4).build(16, 16)
        >>> fabric, projection = best_variant(perfect_shuffle, blocks)
        >>> project(perfect_shuffle, blocks).error, projection.error
        (0.75, 0.0)
    """
    found = list(variants(fabric)) if groups == 1 else [fabric]
    if len(found) == 1:
        return fabric, project(weight, fabric, covariance, groups=groups)
    tried = [project(weight, variant, covariance, sweeps=_TRIED).error for variant in found]
    best = int(np.argmin(tried))
    if tried[best] > (1 - _CLEARLY) * tried[0] - _ROUNDING:
        best = 0
    return found[best], project(weight, found[best], covariance)


def _turned(branch: Branch, inputs: bool, outputs: bool) -> Branch:
    """A branch with the order of its ends exchanged."""
    if inputs:
        branch = _with_inputs(branch)
    if outputs:
        branch = _with_outputs(branch)
    return _simplest(branch)


def _with_inputs(branch: Branch) -> Branch:
    first = branch[0]
    if isinstance(first, Shuffle):
        return branch[1:] if first.stride is not None else branch
    if not isinstance(first, Stage) or first.a * first.d == 1:
        return branch
    stride = first.a if first.a > 1 else first.c
    return (Shuffle(first.in_features, stride=stride), *branch)


def _with_outputs(branch: Branch) -> Branch:
    last = branch[-1]
    if isinstance(last, Shuffle):
        return branch[:-1] if last.stride is not None else branch
    if not isinstance(last, Stage) or last.a * last.d == 1:
        return branch
    stride = last.b if last.a > 1 else last.d
    return (*branch, Shuffle(last.out_features, stride=stride))


def _simplest(branch: Branch) -> Branch:
    """The same map with as few shuffles as moving them to the right, through stages, leaves."""
    moved: list[Step] = []
    for step in branch:
        moved.append(step)
        while len(moved) > 1 and (pair := _exchanged(moved[-2], moved[-1])) is not None:
            moved[-2:] = pair
            if len(pair) != 1:
                break
    simpler = tuple(moved)
    shuffles = [sum(isinstance(s, Shuffle) for s in steps) for steps in (branch, simpler)]
    return simpler if shuffles[1] < shuffles[0] else branch


def _exchanged(before: Step, after: Step) -> list[Step] | None:
    """A shuffle and what follows it, the other way round, where that is possible."""
    if not isinstance(before, Shuffle) or before.stride is None:
        return None
    if isinstance(after, Shuffle):
        inverse = after.stride is not None and before.stride * after.stride == before.size
        return [] if inverse else None
    if not isinstance(after, Stage):
        return None
    if after.d == 1 and before.stride == after.a:  # strided blocks
        turned = replace(after, a=1, d=after.a)
        return [turned, Shuffle(turned.out_features, stride=after.a)]
    if after.a == 1 and before.stride == after.c:  # blocks of neighbours
        turned = replace(after, a=after.d, d=1)
        return [turned, Shuffle(turned.out_features, stride=after.b)]
    return None
