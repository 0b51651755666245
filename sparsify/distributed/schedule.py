"""A whole fabric on the ranks of a group: stages compute alone, features move between them.

    x --enter--> stage --exchange--> stage --...--> stage --leave--> y

Strides, shuffles, wraps and folds cost nothing of their own: they only decide which features a rank
wants or holds, hence the tables. What several branches read or write on a rank moves once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..fabric import Branch, Fabric, Shuffle
from ..ops import fabric_linear
from .division import Part, chunk, part_of
from .exchange import Features, Move, exchange, gather, scatter

__all__ = ["Course", "Schedule", "course_of"]


class Course(NamedTuple):
    """What each rank does in a branch."""

    stages: list[list[Part]]  # for each stage, the parts of the ranks
    wanted: list[list[Features]]  # for each stage, what its parts read of what was held before
    held: list[Features]  # for each rank, the features of the fabric's output that it adds to


def course_of(branch: Branch, fabric: Fabric, ranks: int) -> Course:
    """Follow the features of a branch from the fabric's input to its output."""
    stages, wanted = [], []
    source = np.arange(branch[0].in_features) % fabric.in_features  # wrap: what each place holds
    for step in branch:
        if isinstance(step, Shuffle):
            source = source[step.permutation()]
            continue
        stages.append([part_of(step, rank, ranks) for rank in range(ranks)])
        wanted.append([source[part.inputs] for part in stages[-1]])
        source = np.arange(step.out_features)
    places = np.argsort(source) % fabric.out_features  # fold: where each last output goes
    return Course(stages, wanted, [places[part.outputs] for part in stages[-1]])


class _Stage(NamedTuple):
    arrive: Move | None
    part: Part


class Schedule:
    """Applies a fabric of which each rank has the blocks that `division.part_of` says.

    Args:
        fabric: without a kernel.
        group: the ranks.
        device: where the tensors are.
        reads_all: whether every rank has all inputs; else each has its chunk of them.
        writes_all: whether every rank gets all outputs; else each gets its chunk of them.
    """

    def __init__(
        self,
        fabric: Fabric,
        group: dist.ProcessGroup,
        device: torch.device,
        reads_all: bool,
        writes_all: bool,
    ) -> None:
        """Make the tables."""
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        courses = [course_of(branch, fabric, ranks) for branch in fabric.branches]
        read = [[course.wanted[0][each] for course in courses] for each in range(ranks)]
        written = [[course.held[each] for course in courses] for each in range(ranks)]
        wanted = [np.unique(np.concatenate(features)) for features in read]
        held = [np.unique(np.concatenate(features)) for features in written]
        inputs, outputs = (_chunks(w, ranks) for w in (fabric.in_features, fabric.out_features))
        self.ranks = ranks
        self.inputs = fabric.in_features if reads_all else len(inputs[rank])
        self.enter = (
            scatter(wanted, fabric.in_features, group, device)
            if reads_all
            else exchange(inputs, wanted, group, device)
        )
        self.leave = (
            gather(held, fabric.out_features, group, device)
            if writes_all
            else exchange(held, outputs, group, device)
        )
        self.reads = [_places(features, wanted[rank], device) for features in read[rank]]
        self.writes = _places(np.concatenate(written[rank]), held[rank], device)
        self.outputs = len(held[rank])
        self.branches: list[list[_Stage]] = []
        for course in courses:
            moves: list[Move | None] = [None]
            for before, after in zip(course.stages[:-1], course.wanted[1:], strict=True):
                moves.append(exchange([part.outputs for part in before], after, group, device))
            parts = [stage[rank] for stage in course.stages]
            self.branches.append([*map(_Stage, moves, parts)])

    def __deepcopy__(self, memo: object) -> Schedule:
        """Share it: it never changes, and process groups cannot be copied."""
        return self

    def __call__(
        self,
        x: Tensor,  # (inputs, rows)
        factors: Iterable[Tensor],  # this rank's blocks
    ) -> Tensor:  # (outputs, rows)
        """Apply the fabric."""
        x = x if self.enter is None else self.enter(x)
        remaining, results = iter(factors), []
        for stages, reads in zip(self.branches, self.reads, strict=True):
            values = x if reads is None else x.index_select(0, reads)
            for arrive, part in stages:
                values = values if arrive is None else arrive(values)
                values = _apply(part, values, next(remaining))
            results.append(values)
        y = torch.cat(results) if len(results) > 1 else results[0]
        if self.writes is not None:
            y = y.new_zeros((self.outputs, y.shape[1])).index_add(0, self.writes, y)
        return y if self.leave is None else self.leave(y)


def _chunks(width: int, ranks: int) -> list[Features]:
    return [np.arange(width)[chunk(width, rank, ranks)] for rank in range(ranks)]


def _places(features: Features, among: Features, device: torch.device) -> Tensor | None:
    """Where features are in a sorted list; None where they are the list."""
    if np.array_equal(features, among):
        return None
    return torch.from_numpy(np.searchsorted(among, features)).to(device)


def _apply(
    part: Part,
    x: Tensor,  # (part.inputs, rows)
    weight: Tensor,  # this rank's blocks of the factor
) -> Tensor:  # (part.outputs, rows)
    """Compute a part of a stage."""
    if part.fabric:
        return fabric_linear(x.t(), [weight], part.fabric).t()
    if part.columns is None:  # nothing to do, but there must be gradients, as on the other ranks
        return weight.reshape(0, 0) @ x
    matrix = weight.new_zeros((len(part.outputs), len(part.inputs)))
    columns = torch.from_numpy(part.columns).to(x.device)
    return matrix.scatter(1, columns, weight) @ x
