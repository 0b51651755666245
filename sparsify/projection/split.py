"""Cascades of blocks by hierarchical splits: the first stage is peeled off, then the next.

The hidden features behind the first stage that read one block and reach the same outputs form a
*cell*: together they are any matrix of their number as rank, on a rectangle of the target. The
rectangles of Monarch, of low rank and of butterflies are disjoint, so that an SVD of each is the
best there is. For two stages that is the solution; for more the rest is a smaller problem of the
same kind, exact for members of the family.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .blocks import low_rank
from .links import BlockLink

__all__ = ["Reach", "cells_of", "is_disjoint", "reaches", "split"]

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reach:
    """Which outputs each feature of an interface leads to.

    Attributes:
        ids: the set of each feature, a row of `sets`.
        sets: different sets, (sets, outputs).
    """

    ids: Ids
    sets: Flags


@dataclass(frozen=True, eq=False)
class CellBatch:
    """Cells of one size.

    Attributes:
        blocks: the block of the first stage of each, (cells,).
        rows: its outputs, (cells, outputs).
        features: its hidden features, outputs of the first stage, (cells, rank).
    """

    blocks: Ids
    rows: Ids
    features: Ids


def reaches(links: tuple[BlockLink, ...]) -> list[Reach]:
    """For each link the outputs of the last one that its outputs lead to, fold left out."""
    width = links[-1].stage.out_features
    here = Reach(np.arange(width), np.eye(width, dtype=bool))
    found = [here]
    for link in reversed(links[1:]):
        stage = link.stage
        of_outputs = here.ids.reshape(stage.a, stage.b, stage.d).transpose(0, 2, 1)
        sets = here.sets[of_outputs.reshape(-1, stage.b)].any(1)
        sets, ids = _unique_rows(np.asarray(sets))
        of_inputs = np.broadcast_to(ids.reshape(stage.a, 1, stage.d), (stage.a, stage.c, stage.d))
        here = Reach(_behind(link, of_inputs.reshape(-1)), sets)
        found.append(here)
    return found[::-1]


def _behind(link: BlockLink, of_inputs: Ids) -> Ids:
    """What belongs to the inputs of a link, for the features of the interface before it."""
    if link.reads is None:
        return of_inputs
    before = np.empty_like(of_inputs)
    before[link.reads] = of_inputs
    return before


def _unique_rows(rows: Flags) -> tuple[Flags, Ids]:
    packed = np.packbits(rows, axis=1)
    _, first, ids = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return rows[first], ids.reshape(-1)


def cells_of(link: BlockLink, reach: Reach) -> Iterator[CellBatch]:
    """The cells of a link whose outputs have a given reach, batch by batch of equal sizes."""
    stage = link.stage
    blocks = _blocks(stage.a, stage.b, stage.d).reshape(-1)
    keys = blocks * len(reach.sets) + reach.ids
    order = np.argsort(keys, kind="stable")
    pairs, starts, ranks = np.unique(keys[order], return_index=True, return_counts=True)
    sets = pairs % len(reach.sets)
    heights = reach.sets.sum(1)[sets]
    for rank, height in sorted(set(zip(ranks.tolist(), heights.tolist(), strict=True))):
        chosen = np.flatnonzero((ranks == rank) & (heights == height))
        features = order[starts[chosen][:, None] + np.arange(rank)]
        rows = np.nonzero(reach.sets[sets[chosen]])[1].reshape(len(chosen), height)
        yield CellBatch(pairs[chosen] // len(reach.sets), rows, features)


def cover(link: BlockLink, reach: Reach) -> Matrix:
    """How many cells each output and each block of inputs share, (outputs, blocks)."""
    total = np.zeros((reach.sets.shape[1], link.stage.a * link.stage.d))
    for batch in cells_of(link, reach):
        np.add.at(total, (batch.rows, batch.blocks[:, None]), 1)
    return total


def is_disjoint(links: tuple[BlockLink, ...]) -> bool:
    """Whether no two cells of the first link overlap."""
    return bool(cover(links[0], reaches(links)[0]).max() <= 1)


def split(
    links: tuple[BlockLink, ...],
    target: Matrix,
    inputs: Matrix | None = None,
) -> list[Matrix]:
    """Factors for a cascade of blocks.

    Args:
        links: the cascade; wrap and fold count as more inputs and outputs.
        target: (out, in, taps), of the true inputs and outputs.
        inputs: columns of the inputs, where their covariance counts: the block of the covariance
            that belongs to each cell is then its metric.

    Returns:
        One factor of `stage.shape` per link.
    """
    reach = reaches(links)
    rest = _widened(links, target, cover(links[0], reach[0]))
    factors = []
    for place, link in enumerate(links[:-1]):
        if place:
            times = cover(link, reach[place])
            if times.max() > 1:
                rest = rest / np.maximum(times[:, _columns(link)], 1)[..., None]
        follower = links[place + 1]
        factor, rest = _peeled(link, reach[place], rest, inputs)
        if follower.reads is not None:
            rest = rest[:, follower.reads]
        factors.append(factor)
        if inputs is not None:
            inputs = link.forward(link.from_factor(factor), inputs)
    factors.append(_last(links[-1], rest))
    return factors


def _blocks(a: int, inner: int, d: int) -> Ids:
    block = np.arange(a * d).reshape(a, 1, d)
    return np.broadcast_to(block, (a, inner, d))


def _columns(link: BlockLink) -> Ids:
    """The block of each input."""
    return _blocks(link.stage.a, link.stage.c, link.stage.d).reshape(-1)


def _members(link: BlockLink) -> Ids:
    """The inputs of each block, (blocks, c)."""
    s = link.stage
    return np.arange(s.in_features).reshape(s.a, s.c, s.d).transpose(0, 2, 1).reshape(-1, s.c)


def _widened(links: tuple[BlockLink, ...], target: Matrix, times: Matrix) -> Matrix:
    """The target for the inputs and outputs of the stages: shared evenly where they double."""
    first, last = links[0], links[-1]
    wide = times[:, _columns(first)]
    outputs = last.writes if last.writes is not None else np.arange(last.sinks)
    inputs = first.reads if first.reads is not None else np.arange(first.sources)
    if first.reads is None and last.writes is None and times.max() <= 1:
        return target
    shared = np.zeros(target.shape[:2])
    np.add.at(shared, (outputs[:, None], inputs), wide)
    return np.asarray((target / np.maximum(shared, 1)[..., None])[outputs[:, None], inputs])


def _peeled(
    link: BlockLink, reach: Reach, target: Matrix, inputs: Matrix | None
) -> tuple[Matrix, Matrix]:
    """The first factor, and the target of the others: (outputs, hidden features, taps)."""
    stage, spatial = link.stage, bool(link.stage.kernel)
    taps = target.shape[2]
    factor = np.zeros((stage.a * stage.d, stage.b, stage.c * link.taps))
    rest = np.zeros((target.shape[0], stage.out_features, 1 if spatial else taps))
    members = _members(link)
    place = np.arange(stage.out_features).reshape(stage.a, stage.b, stage.d)
    inner = np.empty(stage.out_features, np.int64)  # the output's number within its block
    inner[place] = np.arange(stage.b)[None, :, None]
    gram = None if inputs is None else _gram(link, inputs)
    for batch in cells_of(link, reach):
        count, height = batch.rows.shape
        blocks = target[batch.rows[:, :, None], members[batch.blocks][:, None, :]]
        if not spatial:  # taps join the rows
            blocks = blocks.transpose(0, 1, 3, 2)
        blocks = blocks.reshape(count, -1, factor.shape[2])
        metric = None if gram is None else gram[batch.blocks]
        left, right = low_rank(blocks, batch.features.shape[1], metric)
        factor[batch.blocks[:, None], inner[batch.features]] = right
        parts = left.reshape(count, height, -1, left.shape[2]).transpose(0, 1, 3, 2)
        rest[batch.rows[:, :, None], batch.features[:, None, :]] = parts
    return factor.reshape(stage.shape), rest


def _gram(link: BlockLink, inputs: Matrix) -> Matrix:
    """The covariance of what each block reads."""
    columns = link.blocks(inputs)
    gram = np.matmul(columns, columns.swapaxes(-1, -2))
    return gram.reshape(-1, *gram.shape[-2:])


def _last(link: BlockLink, target: Matrix) -> Matrix:
    """The last factor: its entries of the target, (outputs, inputs, taps)."""
    s = link.stage
    rows = np.arange(s.out_features).reshape(s.a, s.b, s.d).transpose(0, 2, 1)
    columns = np.arange(s.in_features).reshape(s.a, s.c, s.d).transpose(0, 2, 1)
    return np.asarray(target[rows[..., :, None], columns[..., None, :]]).reshape(s.shape)
