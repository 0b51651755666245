"""The two kinds of pieces that a convolution's branch is cut into."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...fabric import Stage
from ..steps import PlainStep
from ..window import Window, spatial, spatial_backward
from .tiles import Tiles

__all__ = ["Mixing", "Piece", "Taps"]

SIDE_BY_SIDE = 64  # columns that make a product worth its call


@dataclass(frozen=True)
class Piece(ABC):
    """Some steps of a branch, on images (samples, channels, *positions).

    Attributes:
        steps: what to apply.
        factors: one weight per stage.
        sums: where the gradient of each weight is added up, None where nobody asked for it.
    """

    steps: tuple[PlainStep, ...]
    factors: Sequence[Tensor]
    sums: Sequence[Tensor | None]

    @property
    def is_wanted(self) -> bool:
        """Whether the gradient of any weight is asked for."""
        return any(total is not None for total in self.sums)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Apply the steps."""

    @abstractmethod
    def backward(self, flow: Tensor, x: Tensor, passes: bool) -> Tensor:
        """Add the gradients of the weights; return that of x, anything unless it `passes`."""


@dataclass(frozen=True)
class Taps(Piece):
    """The spatial stage: a grouped convolution."""

    window: Window

    def forward(self, x: Tensor) -> Tensor:
        """See Piece."""
        return spatial(x, self.factors[0], self._stage, self.window)

    def backward(self, flow: Tensor, x: Tensor, passes: bool) -> Tensor:
        """See Piece."""
        needs = (passes, self.is_wanted)
        grad_x, grad_weight = spatial_backward(
            flow, x, self.factors[0], self._stage, self.window, needs
        )
        if self.sums[0] is not None:
            self.sums[0].add_(grad_weight)
        return grad_x

    @property
    def _stage(self) -> Stage:
        (stage,) = (step for step in self.steps if isinstance(step, Stage))
        return stage


@dataclass(frozen=True)
class Mixing(Piece):
    """Steps that mix the channels of each position.

    The channels of one sample are columns already, one per position, so an image is read and
    written where it lies; samples with few positions are put side by side first.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See Piece."""
        y = x.new_empty((x.shape[0], self.steps[-1].out_features, *x.shape[2:]))
        for part in _parts(x):
            target = _room(y[part])
            self._tiles.forward(_columns(x[part]), target)
            _store(target, y[part])
        return y

    def backward(self, flow: Tensor, x: Tensor, passes: bool) -> Tensor:
        """See Piece."""
        grad_x = x.new_empty(x.shape)
        for part in _parts(x):
            target = _room(grad_x[part]) if passes else None
            self._tiles.backward(_columns(flow[part]), _columns(x[part]), self.sums, target)
            if target is not None:
                _store(target, grad_x[part])
        return grad_x

    @property
    def _tiles(self) -> Tiles:
        first, last = self.steps[0], self.steps[-1]
        return Tiles((self.steps,), first.in_features, last.out_features, self.factors, False)


def _parts(images: Tensor) -> Iterator[slice]:
    """Cut the samples into groups that have enough positions together."""
    samples, positions = images.shape[0], math.prod(images.shape[2:])
    group = max(1, SIDE_BY_SIDE // positions) if positions else max(1, samples)
    for start in range(0, samples if positions else 0, group):
        yield slice(start, start + group)


def _columns(images: Tensor) -> Tensor:
    """See images as (channels, samples * positions), the samples side by side."""
    samples, channels = images.shape[:2]
    return images.transpose(0, 1).reshape(channels, samples * math.prod(images.shape[2:]))


def _room(images: Tensor) -> Tensor:
    """Memory for the columns of images to write: a single image itself, else new memory."""
    if images.shape[0] == 1:
        return images.view(images.shape[1], math.prod(images.shape[2:]))
    return images.new_empty((images.shape[1], images.numel() // images.shape[1]))


def _store(columns: Tensor, images: Tensor) -> None:
    """Put columns into the images that they are of, unless they are there already."""
    if images.shape[0] > 1:
        shape = (images.shape[1], images.shape[0], *images.shape[2:])
        images.copy_(columns.view(shape).transpose(0, 1))
