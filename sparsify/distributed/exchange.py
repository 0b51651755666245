"""Features move between ranks: one all-to-all, with index tables that are made once, on the host.

Tensors are features-major here, (features, rows), so that what goes to one rank lies together. Each
rank has a list of the features that it holds and one of those that it wants, and

    held --select--> ordered by rank --all-to-all--> received --place--> wanted

A feature that several ranks want goes to each of them. Where several ranks hold a feature, each
holds a summand; they are added in the order of the ranks, so that all ranks get the same bits. The
derivative is the exchange with held and wanted swapped: copies become summands, and summands
copies. Where all hold and want everything, that is an all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Exchange", "Features", "Move", "Select", "Sum", "exchange", "gather", "scatter"]

Features = npt.NDArray[np.int64]


class Exchange:
    """Gives each rank the features that it wants.

    Args:
        held: for each rank, the features that it holds, each once.
        wanted: for each rank, the features that it wants, each once.
        group: the ranks.
        device: where the tensors are.
    """

    def __init__(
        self,
        held: Sequence[Features],
        wanted: Sequence[Features],
        group: dist.ProcessGroup,
        device: torch.device,
    ) -> None:
        """Make the tables of this rank."""
        own = dist.get_rank(group)
        sent = [_common(held[own], other)[0] for other in wanted]
        received = [_common(other, wanted[own])[1] for other in held]
        self.group, self.size = group, len(wanted[own])
        self.sent = torch.from_numpy(np.concatenate(sent)).to(device)
        self.sent_sizes = [len(places) for places in sent]
        self.received = torch.from_numpy(np.concatenate(received)).to(device)
        self.received_sizes = [len(places) for places in received]
        order = np.argsort(np.concatenate(received))
        is_permutation = np.array_equal(np.concatenate(received)[order], np.arange(self.size))
        self.order = torch.from_numpy(order).to(device) if is_permutation else None
        self.is_local = _is_local(held, wanted)

    def __call__(
        self,
        x: Tensor,  # (held by this rank, rows)
    ) -> Tensor:  # (wanted by this rank, rows)
        """Exchange."""
        sent = x.index_select(0, self.sent)
        received = sent
        if not self.is_local:
            received = x.new_empty((len(self.received), x.shape[1]))
            dist.all_to_all_single(received, sent, self.received_sizes, self.sent_sizes, self.group)
        if self.order is not None:
            return received.index_select(0, self.order)
        total = x.new_zeros((self.size, x.shape[1]))
        places = self.received.split(self.received_sizes)
        for where, summand in zip(places, received.split(self.received_sizes), strict=True):
            total.index_add_(0, where, summand)
        return total


class Sum:
    """The exchange in which every rank holds summands of all features and wants all: all-reduce."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Keep the group."""
        self.group = group

    def __call__(
        self,
        x: Tensor,  # (all features, rows)
    ) -> Tensor:  # (all features, rows)
        """Add up."""
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total


class Select:
    """Takes features of a tensor that every rank has whole; nothing is sent."""

    def __init__(self, features: Features, device: torch.device) -> None:
        """Keep the table."""
        self.features = torch.from_numpy(features).to(device)

    def __call__(
        self,
        x: Tensor,  # (all features, rows)
    ) -> Tensor:  # (features of this rank, rows)
        """Select."""
        return x.index_select(0, self.features)


class Move(NamedTuple):
    """What is done with features, and with their gradients."""

    ahead: Exchange | Sum | Select
    back: Exchange | Sum | Select

    def __call__(self, x: Tensor) -> Tensor:
        """Move features; gradients move back."""
        apply: Callable[..., Tensor] = _Move.apply
        return apply(x, self)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, move: Move) -> Tensor:
        ctx.move = move
        return move.ahead(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return Move(ctx.move.back, ctx.move.ahead)(grad), None


def exchange(
    held: Sequence[Features],
    wanted: Sequence[Features],
    group: dist.ProcessGroup,
    device: torch.device,
) -> Move | None:
    """From the ranks that hold features to those that want them; None where all have them."""
    if _is_local(held, wanted) and all(map(np.array_equal, held, wanted)):
        return None
    ahead = _between(held, wanted, group, device)
    return Move(ahead, _between(wanted, held, group, device))


def scatter(
    wanted: Sequence[Features], width: int, group: dist.ProcessGroup, device: torch.device
) -> Move:
    """From all features on every rank to those that each wants; gradients are gathered."""
    own = Select(wanted[dist.get_rank(group)], device)
    return Move(own, _between(wanted, _everywhere(width, wanted), group, device))


def gather(
    held: Sequence[Features], width: int, group: dist.ProcessGroup, device: torch.device
) -> Move:
    """From the ranks that hold features to all features on every rank; gradients stay."""
    own = Select(held[dist.get_rank(group)], device)
    return Move(_between(held, _everywhere(width, held), group, device), own)


def _between(
    held: Sequence[Features],
    wanted: Sequence[Features],
    group: dist.ProcessGroup,
    device: torch.device,
) -> Exchange | Sum:
    if len(held) > 1 and all(np.array_equal(held[0], features) for features in (*held, *wanted)):
        return Sum(group)
    return Exchange(held, wanted, group, device)


def _everywhere(width: int, ranks: Sequence[Features]) -> list[Features]:
    return [np.arange(width)] * len(ranks)


def _common(first: Features, second: Features) -> tuple[Features, Features]:
    """Where the features are that both have, in the same order for both."""
    _, ours, theirs = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return ours, theirs


def _is_local(held: Sequence[Features], wanted: Sequence[Features]) -> bool:
    """Whether each rank holds what it wants, and nobody else a summand of it."""
    holders = np.bincount(np.concatenate(held))
    return all(
        np.isin(want, have).all() and (holders[want] == 1).all()
        for have, want in zip(held, wanted, strict=True)
    )
