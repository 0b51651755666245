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

from .block_link import BlockLink, blocks_in, numbers_in
from .blocks import low_rank

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

    def inner(self, link: BlockLink) -> Ids:
        """The numbers of the features within their blocks."""
        s = link.stage
        return numbers_in(s.a, s.b, s.d)[self.features]


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
    blocks = blocks_in(stage.a, stage.b, stage.d)
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
        factor = np.zeros((link.stage.a * link.stage.d, link.stage.b, link.stage.c * link.taps))
        follower = links[place + 1]
        behind = _Entries(follower) if follower is links[-1] else _Rest(link, follower, rest)
        for batch, left, right in _peeled(link, reach[place], rest, inputs):
            factor[batch.blocks[:, None], batch.inner(link)] = right
            behind.take(batch, left)
        factors.append(factor.reshape(link.stage.shape))
        rest = behind.values
        if inputs is not None and follower is not links[-1]:
            inputs = link.forward(link.from_factor(factors[-1]), inputs)
    return [*factors, rest]


class _Rest:
    """What the stages behind a peeled one have to be, (outputs, inputs of the next, taps)."""

    def __init__(self, link: BlockLink, follower: BlockLink, target: Matrix) -> None:
        taps = 1 if link.stage.kernel else target.shape[2]
        self.places = _places(follower)
        self.values = np.zeros((len(target), follower.stage.in_features, taps))

    def take(self, batch: CellBatch, left: Matrix) -> None:
        """Left factors, (cells, outputs, taps, rank)."""
        features = self.places[batch.features]
        self.values[batch.rows[:, :, None], features[:, None, :]] = left.transpose(0, 1, 3, 2)


class _Entries:
    """The same where one stage is behind: its factor."""

    def __init__(self, link: BlockLink) -> None:
        s = link.stage
        self.places = _places(link)
        self.block, self.number = _columns(link), numbers_in(s.a, s.c, s.d)
        self.flat = np.zeros((s.a * s.d, s.b, s.c, link.taps))
        self.values = self.flat.reshape(s.shape)  # the same memory

    def take(self, batch: CellBatch, left: Matrix) -> None:
        """Left factors, (cells, outputs, taps, rank); the outputs of a cell are a block's, all."""
        features = self.places[batch.features]
        parts = left.transpose(0, 3, 1, 2)  # (cells, rank, outputs, taps)
        self.flat[self.block[features], :, self.number[features]] = parts


def _places(link: BlockLink) -> Ids:
    """Where a link reads each feature of the interface before it."""
    width = link.stage.in_features
    return np.arange(width) if link.reads is None else np.argsort(link.reads)


def _columns(link: BlockLink) -> Ids:
    """The block of each input."""
    return blocks_in(link.stage.a, link.stage.c, link.stage.d)


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
) -> Iterator[tuple[CellBatch, Matrix, Matrix]]:
    """The cells of a link with their two factors, taps with the one that has them.

    Returns:
        Left (cells, outputs, taps, rank) and right (cells, rank, inputs * taps).
    """
    members = _members(link)
    gram = None if inputs is None else _gram(link, inputs)
    for batch in cells_of(link, reach):
        count, height = batch.rows.shape
        blocks = target[batch.rows[:, :, None], members[batch.blocks][:, None, :]]
        if not link.stage.kernel:  # taps join the rows
            blocks = blocks.transpose(0, 1, 3, 2)
        blocks = blocks.reshape(count, -1, link.stage.c * link.taps)
        metric = None if gram is None else gram[batch.blocks]
        left, right = low_rank(blocks, batch.features.shape[1], metric)
        yield batch, left.reshape(count, height, -1, left.shape[2]), right


def _gram(link: BlockLink, inputs: Matrix) -> Matrix:
    """The covariance of what each block reads."""
    columns = link.blocks(inputs)
    gram = np.matmul(columns, columns.swapaxes(-1, -2))
    return np.asarray(gram.reshape(-1, *gram.shape[-2:]))
