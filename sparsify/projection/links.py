"""The links of a branch: its stages, with shuffles, wrap and fold resolved into what they read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..fabric import Branch, Fabric, Shuffle, Stage, Weighted
from .block_link import BlockLink
from .graph_link import GraphLink

__all__ = ["BlockLink", "GraphLink", "links_of"]

Ids = npt.NDArray[np.int64]


def links_of(fabric: Fabric, branch: Branch, coloured: bool) -> tuple[BlockLink | GraphLink, ...]:
    """The links of a branch.

    Args:
        fabric: whose branch it is.
        branch: the steps.
        coloured: whether the inputs have a covariance, so that taps are joined.

    Example:
        >>> from sparsify.fabric import Fabric, Shuffle, Stage
        >>> fabric = Fabric(4, 2, ((Shuffle(4, stride=2), Stage(2, 1, 2, 1)),))
        >>> links_of(fabric, fabric.branches[0], False)[0].reads.tolist()
        [0, 2, 1, 3]
    """
    weighted = [place for place, step in enumerate(branch) if isinstance(step, Weighted)]
    ends = np.arange(branch[-1].out_features) % fabric.out_features
    for step in reversed(branch[weighted[-1] + 1 :]):  # shuffles behind the last stage
        if isinstance(step, Shuffle):
            before = np.empty_like(ends)
            before[step.permutation()] = ends
            ends = before
    here = np.arange(branch[0].in_features) % fabric.in_features
    sources = fabric.in_features
    found: list[BlockLink | GraphLink] = []
    for place, step in enumerate(branch[: weighted[-1] + 1]):
        if isinstance(step, Shuffle):
            here = here[step.permutation()]
            continue
        is_last = place == weighted[-1]
        sinks = fabric.out_features if is_last else step.out_features
        writes = _or_none(ends, sinks) if is_last else None
        wiring = (_or_none(here, sources), writes, sources, sinks)
        taps, joins = step.taps, coloured and bool(step.kernel)
        if isinstance(step, Stage):
            found.append(BlockLink(*wiring, taps, joins, step))
        else:
            found.append(GraphLink(*wiring, taps, joins, step))
        here, sources = np.arange(sinks), sinks
    return tuple(found)


def _or_none(ids: Ids, width: int) -> Ids | None:
    return None if np.array_equal(ids, np.arange(width)) else ids
