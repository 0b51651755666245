"""What a convolution's branch is cut into: its spatial stage, and the runs of steps around it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor

from ...fabric import Stage
from ..steps import PlainStep
from ..window import Window, spatial, spatial_backward
from .tiles import Tiles

__all__ = ["Mixing", "Piece", "Sums", "Taps"]

SIDE_BY_SIDE = 512  # columns that make a tile worth its calls

Sums = Sequence[Tensor | None]


class Piece(ABC):
    """Some steps of a branch, on images (samples, channels, *positions).

    A piece holds no weights: it gets those of its stages with each call. `sums` is where the
    gradient of each weight is added up, None where nobody asked for it.

    Args:
        steps: what to apply.
    """

    def __init__(self, steps: tuple[PlainStep, ...]) -> None:
        """See the class."""
        self.steps = steps
        self.stages = tuple(step for step in steps if isinstance(step, Stage))

    @abstractmethod
    def forward(self, x: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """Apply the steps."""

    @abstractmethod
    def backward(
        self, flow: Tensor, x: Tensor, factors: Sequence[Tensor], sums: Sums, passes: bool
    ) -> Tensor:
        """Add the gradients of the weights; return that of x, anything unless it `passes`."""


class Taps(Piece):
    """The spatial stage, as a grouped convolution.

    Args:
        steps: that stage.
        window: the geometry.
    """

    def __init__(self, steps: tuple[PlainStep, ...], window: Window) -> None:
        """See the class."""
        super().__init__(steps)
        self.window = window

    def forward(self, x: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """See Piece."""
        return spatial(x, factors[0], self.stages[0], self.window)

    def backward(
        self, flow: Tensor, x: Tensor, factors: Sequence[Tensor], sums: Sums, passes: bool
    ) -> Tensor:
        """See Piece."""
        needs = (passes, sums[0] is not None)
        grad_x, grad = spatial_backward(flow, x, factors[0], self.stages[0], self.window, needs)
        if sums[0] is not None:
            sums[0].add_(grad)
        return grad_x


class Mixing(Piece):
    """Steps that mix the channels of each position, by tiles.

    The channels of one sample are columns already, one per position, so an image is read and
    written where it lies; samples with few positions are put side by side first.
    """

    def forward(self, x: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """See Piece."""
        y = x.new_empty((x.shape[0], self.steps[-1].out_features, *x.shape[2:]))
        tiles = self._tiles(factors)
        for part in _parts(x):
            target = _room(y[part])
            tiles.forward(_columns(x[part]), target)
            _store(target, y[part])
        return y

    def backward(
        self, flow: Tensor, x: Tensor, factors: Sequence[Tensor], sums: Sums, passes: bool
    ) -> Tensor:
        """See Piece."""
        grad_x = x.new_empty(x.shape)
        tiles = self._tiles(factors)
        for part in _parts(x):
            target = _room(grad_x[part]) if passes else None
            tiles.backward(_columns(flow[part]), _columns(x[part]), sums, target)
            if target is not None:
                _store(target, grad_x[part])
        return grad_x

    def _tiles(self, factors: Sequence[Tensor]) -> Tiles:
        first, last = self.steps[0], self.steps[-1]
        return Tiles((self.steps,), first.in_features, last.out_features, factors, False)


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
