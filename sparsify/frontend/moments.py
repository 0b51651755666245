"""Sums of outer products of what layers read, in bounded memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["MOST_BYTES", "Moment", "Shelf"]

MOST_BYTES = 2 << 30
"""Memory for sums; those beyond it lie in a temporary file each, which the system pages."""

_ROWS = 8192  # of a product at a time, which bounds the copies in another precision


class Shelf:
    """Where sums are kept: in memory up to a limit, beyond it in temporary files.

    The files go with the shelf.

    Args:
        limit: bytes of memory.

    Example:
        >>> Shelf().zeros(2, 2).sum().item()
        0.0
    """

    def __init__(self, limit: int = MOST_BYTES) -> None:
        """See the class."""
        self._left = limit
        self._count = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def zeros(self, *shape: int) -> Tensor:
        """A float64 tensor to add to."""
        size = 8 * int(np.prod(shape))
        if size <= self._left:
            self._left -= size
            return torch.zeros(shape, dtype=torch.float64)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="sparsify-calibration-")
        self._count += 1
        path = Path(self._folder.name) / str(self._count)
        return torch.from_numpy(np.memmap(path, np.float64, "w+", shape=shape))


class Moment:
    """The sums of left outer right over pairs of rows, and of the rows; groups apart.

    Products are made in float32, or in float64 where the rows are, and summed in float64.

    Args:
        shelf: where the sum is kept.

    Example:
        >>> moment = Moment(Shelf())
        >>> moment.add(torch.tensor([[[1.0, 2.0]]]))
        >>> moment.mean().tolist(), moment.rows
        ([[[1.0, 2.0], [2.0, 4.0]]], 1)
    """

    def __init__(self, shelf: Shelf) -> None:
        """See the class."""
        self._shelf = shelf
        self._sum: Tensor | None = None
        self._totals: list[Tensor] = []  # of left and right, (groups, width)
        self.rows = 0

    def add(
        self,
        right: Tensor,  # (groups, rows, width)
        left: Tensor | None = None,  # the same, `right` itself by default
    ) -> None:
        """Add rows."""
        groups, rows, width = right.shape
        if self._sum is None:
            self._sum = self._shelf.zeros(groups, width, width)
        self.rows += rows
        wide = torch.float64 if right.dtype == torch.float64 else torch.float32
        for start in range(0, rows, _ROWS):
            some = right[:, start : start + _ROWS].to(wide)
            other = some if left is None else left[:, start : start + _ROWS].to(wide)
            self._sum += torch.bmm(other.mT, some).to("cpu")
            sums = [part.sum(1, dtype=torch.float64).to("cpu") for part in (other, some)]
            if self._totals:
                sums = [before + new for before, new in zip(self._totals, sums, strict=True)]
            self._totals = sums

    def means(self) -> tuple[Tensor, Tensor]:
        """The mean rows of left and right, (groups, width) each.

        Raises:
            ValueError: no row came.
        """
        if not self.rows:
            raise ValueError("No row came.")
        left, right = (total / self.rows for total in self._totals)
        return left, right

    def mean(self, *, centred: bool = False) -> Tensor:  # (groups, width, width)
        """The mean of the products.

        Args:
            centred: whether the product of the means is taken off: a covariance.

        Raises:
            ValueError: no row came.
        """
        if self._sum is None or not self.rows:
            raise ValueError("No row came.")
        product: Tensor = self._sum / self.rows
        if centred:
            left, right = self.means()
            product -= left.unsqueeze(2) * right.unsqueeze(1)
        return product
