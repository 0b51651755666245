"""Cells: the blocks of the dense matrix that a fabric of two stages fits one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError
from ...fabric import Fabric, Stage
from .layered import blocks_of, links

__all__ = ["Cells", "cells_of", "two_stage_error"]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cells:
    """Pairs of an in-block of the first and an out-block of the second stage that share links.

    All hidden features of a cell read the same inputs and write the same outputs: together they are
    any matrix of a rank up to their number.

    Attributes:
        outputs: rows of every cell.
        inputs: columns of every cell.
        links: the different numbers of hidden features per cell.
        counts: how many cells have so many.
        in_blocks: the in-block of each cell.
        out_blocks: the out-block of each cell.
        ranks: hidden features of each cell.
        in_nodes: the inputs of each in-block, (blocks, inputs).
        out_nodes: the outputs of each out-block, (blocks, outputs).
    """

    outputs: int
    inputs: int
    links: tuple[int, ...]
    counts: tuple[int, ...]
    in_blocks: Ids
    out_blocks: Ids
    ranks: Ids
    in_nodes: Ids
    out_nodes: Ids


def cells_of(fabric: Fabric) -> Cells | None:
    """The cells of a fabric of one branch with two Kronecker-sparse stages; None of any other.

    Shuffles may stand anywhere. Where the ends wrap or fold, cells overlap.

    Example:
        >>> from sparsify.topology import Monarch
        >>> cells = cells_of(Monarch(blocks_in=4, blocks_out=2, links=3).build(16, 8))
        >>> cells.outputs, cells.inputs, cells.links, cells.counts
        (4, 4, (3,), (8,))
    """
    stages = fabric.stages
    if len(fabric.branches) != 1 or len(stages) != 2:
        return None
    found, _ = links(fabric, fabric.branches[0], 0)
    (first, inputs, hidden), (second, sources, outputs) = found
    if not isinstance(first, Stage) or not isinstance(second, Stage):
        return None
    reads, writes = blocks_of(first)
    gathers, ends = blocks_of(second)
    sink = np.empty(hidden.size, np.int64)
    sink[sources] = gathers  # hidden features are numbered from 0
    pairs, ranks = np.unique(writes * (second.a * second.d) + sink, return_counts=True)
    numbers, counts = np.unique(ranks, return_counts=True)
    return Cells(
        second.b,
        first.c,
        tuple(numbers.tolist()),
        tuple(counts.tolist()),
        pairs // (second.a * second.d),
        pairs % (second.a * second.d),
        ranks,
        _members(inputs, reads),
        _members(outputs - fabric.in_features, ends),
    )


def _members(nodes: Ids, blocks: Ids) -> Ids:
    """The nodes of each block, (blocks, size); all blocks have one size."""
    return nodes[np.argsort(blocks, kind="stable")].reshape(int(blocks.max()) + 1, -1)


def two_stage_error(target: npt.NDArray[np.float64], fabric: Fabric) -> float:
    """The least relative squared error of a two-stage fabric for one matrix, by block SVDs.

    Args:
        target: (out_features, in_features).
        fabric: one branch with two Kronecker-sparse stages, without wrap.

    Raises:
        ConfigError: another fabric.

    Example:
        >>> from sparsify.topology import Monarch
        >>> two_stage_error(np.ones((16, 16)), Monarch(4).build(16, 16)) < 1e-28
        True
    """
    cells = cells_of(fabric)
    if cells is None or not fabric.is_exact:
        raise ConfigError(
            f"Block SVDs need a fabric of two Kronecker-sparse stages without wrap; got {fabric}."
        )
    if target.shape != (fabric.out_features, fabric.in_features):
        raise ConfigError(
            f"A matrix of shape {(fabric.out_features, fabric.in_features)} can be fitted by this "
            f"fabric; got {target.shape}."
        )
    outside = np.ones(target.shape, bool)
    lost = 0.0
    for entry, leave, rank in zip(cells.in_blocks, cells.out_blocks, cells.ranks, strict=True):
        block = np.ix_(cells.out_nodes[leave], cells.in_nodes[entry])
        outside[block] = False
        lost += float((np.linalg.svd(target[block], compute_uv=False)[rank:] ** 2).sum())
    return (lost + float((target[outside] ** 2).sum())) / float((target**2).sum())
