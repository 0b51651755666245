"""Sums of outer products of what layers read, in bounded memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
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
        self._folder: Path | None = None

    def zeros(self, *shape: int) -> Tensor:
        """A float64 tensor to add to."""
        size = 8 * int(np.prod(shape))
        if size <= self._left:
            self._left -= size
            return torch.zeros(shape, dtype=torch.float64)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="sparsify-calibration-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._count += 1
        path = self._folder / str(self._count)
        return torch.from_numpy(np.memmap(path, np.float64, "w+", shape=shape))


class Moment:
    """The sums of left outer right over pairs of rows, and of the rows; groups apart.

    Products are made in float32, or in float64 where the rows are, and summed in float64; of rows
    less the mean of the first ones, so that a small variance survives beside a large mean.

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
        self._shifts: list[Tensor] = []  # of left and right, (groups, 1, width)
        self._totals: list[Tensor] = []  # of both, (groups, width)
        self.rows = 0

    def add(
        self,
        right: Tensor,  # (groups, rows, width)
        left: Tensor | None = None,  # the same, `right` itself by default
    ) -> None:
        """Add rows."""
        groups, rows, width = right.shape
        sides = (right if left is None else left, right)
        wide = torch.float64 if right.dtype == torch.float64 else torch.float32
        if self._sum is None:
            self._sum = self._shelf.zeros(groups, width, width)
            self._shifts = [side.to(wide).mean(1, keepdim=True) for side in sides]
        self.rows += rows
        for start in range(0, rows, _ROWS):
            part = slice(start, start + _ROWS)
            one, other = (
                side[:, part].to(wide) - shift
                for side, shift in zip(sides, self._shifts, strict=True)
            )
            self._sum += torch.bmm(one.mT, other).to("cpu")
            sums = [side.sum(1, dtype=torch.float64).to("cpu") for side in (one, other)]
            if self._totals:
                sums = [before + new for before, new in zip(self._totals, sums, strict=True)]
            self._totals = sums

    def _offsets(self) -> list[Tensor]:
        """How far the means lie from where they were first, (groups, width) each."""
        if self._sum is None or not self.rows:
            raise ValueError("No row came.")
        return [total / self.rows for total in self._totals]

    def means(self) -> tuple[Tensor, Tensor]:
        """The mean rows of left and right, (groups, width) each.

        Raises:
            ValueError: no row came.
        """
        shifts = (shift.squeeze(1).double().to("cpu") for shift in self._shifts)
        left, right = (
            offset + shift for offset, shift in zip(self._offsets(), shifts, strict=True)
        )
        return left, right

    def shrinkage(self, *, centred: bool = False) -> Tensor:  # (groups,), 0 to 1
        """How far the mean of the products is to be drawn to its mean diagonal.

        Few rows say little of many directions, and what is fitted to them alone ends further from
        other rows than what is fitted to none. Near 1 where rows are few and no direction stands
        out, near 0 where they are many.

        Args:
            centred: as for `mean`.

        Raises:
            ValueError: no row came.

        Reference:
            Chen, Wiesel, Eldar, Hero 2010, eq. 23 (oracle approximating shrinkage).
        """
        product = self.mean(centred=centred)
        width = product.shape[1]
        squares = (product**2).sum((1, 2))
        trace = product.diagonal(dim1=1, dim2=2).sum(1) ** 2
        apart = (self.rows + 1 - 2 / width) * (squares - trace / width)
        share = ((1 - 2 / width) * squares + trace) / apart.clamp_min(1e-300)
        return share.clamp(0, 1)

    def shrunk(self, *, centred: bool = False) -> Tensor:  # (groups, width, width)
        """The mean of the products, drawn to its mean diagonal by `shrinkage`.

        Args:
            centred: as for `mean`.

        Raises:
            ValueError: no row came.
        """
        product, share = self.mean(centred=centred), self.shrinkage(centred=centred)
        level = product.diagonal(dim1=1, dim2=2).mean(1)
        eye = torch.eye(product.shape[1], dtype=product.dtype)
        product *= (1 - share)[:, None, None]
        product += (share * level)[:, None, None] * eye
        return product

    def mean(self, *, centred: bool = False) -> Tensor:  # (groups, width, width)
        """The mean of the products.

        Args:
            centred: whether the product of the means is taken off: a covariance.

        Raises:
            ValueError: no row came.
        """
        left, right = self._offsets()
        assert self._sum is not None
        product: Tensor = self._sum / self.rows - left.unsqueeze(2) * right.unsqueeze(1)
        if not centred:
            left, right = self.means()
            product += left.unsqueeze(2) * right.unsqueeze(1)
        return product
