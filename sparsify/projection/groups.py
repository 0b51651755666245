"""Grouped layers: one projection per group, with the fabric of one group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..fabric import Fabric, Stage

__all__ = ["parts_of"]


def parts_of(
    weight: Any, fabric: Fabric, covariance: Any, groups: int
) -> Iterator[tuple[Any, Fabric, Any]]:
    """Weight, fabric and covariance of each group.

    Args:
        weight: (out, in / groups, *kernel).
        fabric: of all groups, see `Fabric.repeat`.
        covariance: of all inputs, or (groups, ...) one per group; None for white ones.
        groups: 1 or more.

    Raises:
        ConfigError: the fabric mixes the groups, or sizes do not go together.

    Example:
        >>> fabric = Fabric(4, 4, ((Stage(2, 2, 2, 1),),))
        >>> [part.in_features for _, part, _ in parts_of(np.ones((4, 2)), fabric, None, 2)]
        [2, 2]
    """
    if not isinstance(fabric, Fabric):
        raise ConfigError(f"A projection needs a Fabric; got {type(fabric).__name__}.")
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise ConfigError(f"groups must be a whole number of 1 or more; got groups={groups!r}.")
    if groups == 1:
        yield weight, fabric, covariance
        return
    if not fabric.separates(groups):
        raise ConfigError(
            f"The fabric mixes the {groups} groups; build it for one group and take "
            f"fabric.repeat({groups}). It is {fabric}."
        )
    dense = np.asarray(weight)
    if dense.ndim < 2 or dense.shape[0] != fabric.out_features:
        raise ConfigError(
            f"The weight of this fabric has {fabric.out_features} rows; got {dense.shape}."
        )
    one = _one_of(fabric, groups)
    metrics = _split_covariance(covariance, groups)
    rows = one.out_features
    for group in range(groups):
        yield dense[group * rows : (group + 1) * rows], one, metrics[group]


def _one_of(fabric: Fabric, groups: int) -> Fabric:
    """The fabric that repeats; the inverse of `Fabric.repeat`."""
    branches = tuple(
        tuple(replace(step, a=step.a // groups) for step in branch if isinstance(step, Stage))
        for branch in fabric.branches
    )
    return Fabric(fabric.in_features // groups, fabric.out_features // groups, branches)


def _split_covariance(covariance: Any, groups: int) -> list[Any]:
    if covariance is None:
        return [None] * groups
    whole = np.asarray(covariance)
    if whole.ndim == 3 and len(whole) == groups:
        return list(whole)
    if whole.ndim != 2 or whole.shape[0] != whole.shape[1] or len(whole) % groups:
        raise ConfigError(
            f"The covariance of {groups} groups is one square matrix over all inputs, or one per "
            f"group; got shape {whole.shape}."
        )
    width = len(whole) // groups
    edges = [slice(group * width, (group + 1) * width) for group in range(groups)]
    return [whole[edge, edge] for edge in edges]  # no output reads two groups
