"""Stages of a convolution that mix the channels of each position, one batched product each.

The channels of a sample are columns already, one per position, so that the product of a stage reads
an image where it lies and writes the next one where it will lie. That takes a fraction of the calls
that tiles take, and Python is slow after a convolution has emptied the caches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...fabric import Stage
from ..steps import PlainStep
from .pieces import Piece, Sums

__all__ = ["Products", "are_products"]

MOST_STAGES = 2  # tiles keep what lies between more of them in cache
FEW_POSITIONS = 256  # of an image, up to which samples go side by side
MOST_COPIES = 2**16  # weights that are copied rather than that samples are taken one by one


def are_products(steps: Sequence[PlainStep]) -> bool:
    """Whether `Products` serves some steps: a few stages whose blocks lie one step apart."""
    return len(steps) <= MOST_STAGES and all(
        isinstance(step, Stage) and 1 in (step.a, step.d) for step in steps
    )


class Products(Piece):
    """Stages, each with a = 1 or d = 1, on images on the CPU."""

    def __init__(self, steps: tuple[PlainStep, ...]) -> None:
        """See Piece."""
        super().__init__(steps)
        self._ways = [((s.a * s.d, s.b, s.c), s.d > 1) for s in self.stages]
        self._is_strided = any(strided for _, strided in self._ways)

    def _joins(self, images: Tensor) -> bool:
        """Whether samples go side by side, as if they were one: several with few positions."""
        few = 0 < math.prod(images.shape[2:]) <= FEW_POSITIONS
        return self._is_strided and few and images.shape[0] > 1

    def forward(self, x: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """See Piece."""
        joins = self._joins(x)
        columns = _columns(x, joins)
        for (shape, strided), weight in zip(self._ways, factors, strict=True):
            columns = _multiply(weight.reshape(shape), columns, strided)
        return _images(columns, x, joins)

    def backward(
        self, flow: Tensor, x: Tensor, factors: Sequence[Tensor], sums: Sums, passes: bool
    ) -> Tensor:
        """See Piece."""
        weights = [w.reshape(shape) for w, (shape, _) in zip(factors, self._ways, strict=True)]
        joins = self._joins(x)
        inputs = [_columns(x, joins)]
        for place in range(len(weights) - 1):
            inputs.append(_multiply(weights[place], inputs[place], self._ways[place][1]))
        grad = _columns(flow, joins)
        for place in reversed(range(len(weights))):
            (shape, strided), total = self._ways[place], sums[place]
            if total is not None:
                _add_gradient(total.view(shape), grad, inputs[place], strided)
            if passes or any(one is not None for one in sums[:place]):
                grad = _multiply(weights[place].transpose(1, 2), grad, strided)
        return _images(grad, x, joins)


def _columns(images: Tensor, joins: bool) -> Tensor:
    """Images as (samples, channels, positions), contiguous."""
    columns = images.flatten(2)
    if joins:
        return columns.transpose(0, 1).reshape(1, columns.shape[1], -1)
    return columns.contiguous()


def _images(columns: Tensor, like: Tensor, joins: bool) -> Tensor:
    """Undo `_columns`."""
    samples, channels, positions = like.shape[0], columns.shape[1], like.shape[2:]
    if joins:
        return columns.view(channels, samples, *positions).transpose(0, 1).contiguous()
    return columns.view(samples, channels, *positions)


def _multiply(
    matrices: Tensor,  # (blocks, outputs, inputs)
    x: Tensor,  # (samples, channels, positions), contiguous
    strided: bool,
) -> Tensor:
    """One product per block: of neighbouring channels, or of channels as far apart as blocks."""
    blocks, outputs, inputs = matrices.shape
    samples, _, positions = x.shape
    if not strided and (samples == 1 or samples * matrices.numel() <= MOST_COPIES):
        if samples != 1:
            matrices = matrices.expand(samples, -1, -1, -1).reshape(-1, outputs, inputs)
        y = torch.bmm(matrices, x.view(samples * blocks, inputs, positions))
        return y.view(samples, blocks * outputs, positions)
    y = x.new_empty((samples, blocks * outputs, positions))
    for source, target in zip(
        _blocks(x, blocks, strided), _blocks(y, blocks, strided), strict=True
    ):
        torch.bmm(matrices, source, out=target)
    return y


def _add_gradient(total: Tensor, grad: Tensor, x: Tensor, strided: bool) -> None:
    blocks = total.shape[0]
    pairs = zip(_blocks(grad, blocks, strided), _blocks(x, blocks, strided), strict=True)
    for outputs, inputs in pairs:
        total.baddbmm_(outputs, inputs.transpose(1, 2))


def _blocks(x: Tensor, blocks: int, strided: bool) -> Iterator[Tensor]:
    """Sample by sample: (blocks, features of a block, positions)."""
    samples, channels, positions = x.shape
    features = channels // blocks
    if strided:
        return iter(x.view(samples, features, blocks, positions).transpose(1, 2))
    return iter(x.view(samples, blocks, features, positions))
