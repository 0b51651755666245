"""The spatial stage of a convolution as a grouped convolution of sizes that have fast code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...steps.fitting import fitting
from ..steps import PlainStep
from ..window import Window
from .pieces import Piece, Sums

__all__ = ["Groups"]


class Groups(Piece):
    """The spatial stage of a branch, on the CPU.

    Args:
        steps: that stage.
        window: the geometry.
    """

    def __init__(self, steps: tuple[PlainStep, ...], window: Window) -> None:
        """Choose the sizes."""
        super().__init__(steps)
        (stage,) = self.stages
        self._stage, self._shape, self._window = stage, stage.shape, window
        self._b, self._c, self._is_paired = fitting(stage)
        count = stage.a * stage.d
        self._rest = (None, *window, count // 2 if self._is_paired else count)

    def forward(self, x: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """See Piece."""
        x = self._gather(x, self._stage.c, self._c)
        y = torch.convolution(x, self._kernels(factors[0]), *self._rest)
        return self._scatter(y, self._stage.b, self._b)

    def backward(
        self, flow: Tensor, x: Tensor, factors: Sequence[Tensor], sums: Sums, passes: bool
    ) -> Tensor:
        """See Piece."""
        grad_x, grad, _ = torch.ops.aten.convolution_backward(
            self._gather(flow, self._stage.b, self._b),
            self._gather(x, self._stage.c, self._c),
            self._kernels(factors[0]),
            *self._rest,
            [passes, sums[0] is not None, False],
        )
        if sums[0] is not None:
            sums[0].add_(self._weights(grad))
        return self._scatter(grad_x, self._stage.c, self._c) if passes else flow

    def _gather(self, x: Tensor, width: int, wide: int) -> Tensor:
        """Channels (a, width, d) in the order (a, d, wide), zeros behind each block."""
        a, d = self._stage.a, self._stage.d
        if (d == 1 or width == 1) and width == wide:
            return x
        samples, _, *positions = x.shape
        blocks = x.reshape(samples, a, width, d, *positions).transpose(2, 3)
        if wide > width:
            blocks = F.pad(blocks, (*(0, 0) * len(positions), 0, wide - width))
        return blocks.reshape(samples, a * d * wide, *positions)

    def _scatter(self, x: Tensor, width: int, wide: int) -> Tensor:
        """Undo `_gather`."""
        a, d = self._stage.a, self._stage.d
        if (d == 1 or width == 1) and width == wide:
            return x
        samples, _, *positions = x.shape
        blocks = x.reshape(samples, a, d, wide, *positions)[:, :, :, :width].transpose(2, 3)
        return blocks.reshape(samples, a * width * d, *positions)

    def _kernels(self, weight: Tensor) -> Tensor:
        """The weight as convolutions have it, see `_gather` for the order of the channels."""
        a, d, b, c, *kernel = self._shape
        blocks = weight.reshape(a * d, b, c, *kernel)
        if (self._b, self._c) != (b, c):
            blocks = F.pad(blocks, (*(0, 0) * len(kernel), 0, self._c - c, 0, self._b - b))
        if self._window.transposed:
            blocks = blocks.transpose(1, 2)
        rows, columns = blocks.shape[1:3]
        if self._is_paired:
            pairs = blocks.new_zeros((a * d // 2, 2, rows, 2, columns, *kernel))
            for place in (0, 1):
                pairs[:, place, :, place] = blocks[place::2]
            return pairs.view(a * d * rows, 2 * columns, *kernel)
        return blocks.reshape(a * d * rows, columns, *kernel)

    def _weights(self, kernels: Tensor) -> Tensor:
        """Undo `_kernels`."""
        a, d, b, c, *kernel = self._shape
        is_turned = self._window.transposed
        rows, columns = (self._c, self._b) if is_turned else (self._b, self._c)
        if self._is_paired:
            pairs = kernels.reshape(a * d // 2, 2, rows, 2, columns, *kernel)
            kernels = torch.stack((pairs[:, 0, :, 0], pairs[:, 1, :, 1]), 1)
        blocks = kernels.reshape(a * d, rows, columns, *kernel)
        if is_turned:
            blocks = blocks.transpose(1, 2)
        return blocks[:, :b, :c].reshape(self._shape)
