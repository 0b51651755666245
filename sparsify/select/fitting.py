"""How near fabrics of one layer come to its trained weight: estimates for many of them at once.

A Monarch fabric with k links is a rank-k approximation of each block of the weight, and low rank is
Monarch with one block, so the squared singular values of all blocks tell the error of any number of
links or ranks. They are computed once per pair of block counts. With a covariance of the inputs the
blocks are measured in their own part of it: exact for low rank; for Monarch an upper bound of what
alternating least squares reach.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..fabric import Fabric, Stage

__all__ = ["Fit", "turns"]

Matrix = npt.NDArray[np.float64]

_WORK = 1e10
"""Multiplications per pair of block counts, about: of many blocks a sample speaks for all."""

_FEWEST = 2
_SINGLE = 1e8
"""Multiplications per block from which single precision does: a third of the time."""


class Fit:
    """The trained weight of a layer, ready to be asked.

    Args:
        load: gives the weight, (out, in / groups, *kernel), and the covariance of the inputs,
            (in * taps, in * taps), or one such matrix per group; None for white ones.
        groups: of a convolution.

    Example:
        >>> from sparsify.topology import LowRank
        >>> fit = Fit(lambda: (np.diag([3.0, 2.0, 1.0]), None))
        >>> round(fit.error(LowRank(2).build(3, 3)), 6)  # 1 of 9 + 4 + 1
        0.071429
    """

    def __init__(self, load: Callable[[], tuple[Matrix, Matrix | None]], groups: int = 1) -> None:
        """See the class."""
        self._load, self._groups = load, groups
        self._loaded: tuple[Matrix, Matrix | None] | None = None
        self._tails: dict[tuple[int, ...], Matrix] = {}
        self._roots: dict[tuple[int, ...], Matrix] = {}

    def error(self, fabric: Fabric, turned: tuple[bool, bool] = (False, False)) -> float:
        """The relative squared error, about.

        Args:
            fabric: Monarch or low rank, over one group, kernel in place.
            turned: whether its blocks shall read strided inputs, and write neighbouring outputs:
                its variants, see `turns`.
        """
        first, second = (step for step in fabric.branches[0] if isinstance(step, Stage))
        blocks_in, blocks_out = first.a, second.d
        links = second.c // blocks_in
        key = (blocks_in, blocks_out, first.c, second.b, bool(first.kernel), *turned)
        if key not in self._tails:
            self._tails[key] = self._tail(*key)
        tails = self._tails[key]
        return float(tails[min(links, len(tails) - 1)])

    def forget(self) -> None:
        """Let the weight and its covariance go; what was asked before stays known."""
        self._loaded = None
        self._roots.clear()

    def _data(self) -> tuple[Matrix, Matrix | None]:
        """The weights (groups, out, in, taps) and the covariance, read again where forgotten."""
        if self._loaded is None:
            weight, covariance = self._load()
            flat = weight.reshape(*weight.shape[:2], -1)
            self._loaded = flat.reshape(self._groups, -1, *flat.shape[1:]), covariance
        return self._loaded

    def _tail(
        self,
        blocks_in: int,
        blocks_out: int,
        inputs: int,
        outputs: int,
        taps_first: bool,
        is_strided: bool,
        is_plain: bool,
    ) -> Matrix:
        """Share of the energy that is left without the first 0, 1, 2, ... links."""
        total: Matrix = np.zeros(1)
        weights, covariance = self._data()
        for group, weight in enumerate(weights):
            wide = _padded(weight, blocks_out * outputs, blocks_in * inputs)
            taps = wide.shape[2]
            rows_first = (blocks_out, outputs) if is_plain else (outputs, blocks_out)
            columns = (inputs, blocks_in) if is_strided else (blocks_in, inputs)
            cells = wide.reshape(*rows_first, *columns, taps)
            cells = cells.swapaxes(0, 1) if is_plain else cells  # (outputs, blocks, ...)
            cells = cells.swapaxes(2, 3) if is_strided else cells  # (..., blocks, inputs, taps)
            order = (2, 1, 0, 3, 4) if taps_first else (2, 1, 0, 4, 3)
            rows = outputs if taps_first else outputs * taps
            cells = cells.transpose(order)
            ends, starts = _sampled(blocks_in, blocks_out, rows, wide.size)
            cells = cells[ends, starts].reshape(len(ends), rows, -1)
            if covariance is not None:
                key = (group, blocks_in, taps_first, is_strided)
                if key not in self._roots:
                    own = _of_group(covariance, group, self._groups)
                    self._roots[key] = _roots(own, blocks_in, inputs, taps, taps_first, is_strided)
                cells = cells @ self._roots[key][ends]
            total = _sum(total, _energies(cells))
        left = np.append(np.cumsum(total[::-1])[::-1], 0.0)
        return left / left[0] if left[0] > 0 else np.zeros(1)


def turns(fabric: Fabric) -> list[tuple[bool, bool]]:
    """What is turned in each of `projection.variants(fabric)`, in that order.

    Example:
        >>> from sparsify.topology import Monarch
        >>> turns(Monarch(blocks_in=1, blocks_out=2).build(4, 4))
        [(False, False), (False, True)]
    """
    first, second = (step for step in fabric.branches[0] if isinstance(step, Stage))
    can_read, can_write = first.a > 1, second.d > 1
    ways = ((False, False), (True, False), (False, True), (True, True))
    return [way for way in ways if way[0] <= can_read and way[1] <= can_write]


def _of_group(covariance: Matrix, group: int, groups: int) -> Matrix:
    if covariance.ndim == 3:
        own: Matrix = covariance[group]
        return own
    width = len(covariance) // groups
    edge = slice(group * width, (group + 1) * width)
    return covariance[edge, edge]


def _roots(
    covariance: Matrix, blocks: int, inputs: int, taps: int, taps_first: bool, is_strided: bool
) -> Matrix:
    """For each block of inputs a root of its part of the covariance."""
    if not taps_first and taps > 1:  # each tap reads the same channels: their mean
        width = len(covariance) // taps
        split = covariance.reshape(width, taps, width, taps)
        covariance, taps = np.einsum("itjt->ij", split) / taps, 1
    channels = np.arange(blocks * inputs) % (len(covariance) // taps)
    members = channels.reshape(inputs, blocks).T if is_strided else channels.reshape(blocks, inputs)
    found = np.empty((blocks, inputs * taps, inputs * taps))
    for block in range(blocks):
        own = (members[block][:, None] * taps + np.arange(taps)).reshape(-1)
        part = covariance[np.ix_(own, own)]
        values, vectors = np.linalg.eigh(part)
        found[block] = vectors * np.sqrt(np.maximum(values, 0))
    return found


def _padded(weight: Matrix, outputs: int, inputs: int) -> Matrix:
    missing = (outputs - weight.shape[0], inputs - weight.shape[1])
    return np.pad(weight, ((0, missing[0]), (0, missing[1]), (0, 0))) if any(missing) else weight


def _sampled(
    blocks_in: int, blocks_out: int, rows: int, weights: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Which blocks are looked at, as pairs of (block of inputs, block of outputs)."""
    count = blocks_in * blocks_out
    work = weights // count * min(rows, weights // count // rows)
    chosen = np.arange(count)
    if (fitting := max(_FEWEST, int(_WORK / work))) < count:
        chosen = np.sort(np.random.default_rng(0).permutation(count)[:fitting])
    return chosen // blocks_out, chosen % blocks_out


def _energies(cells: Matrix) -> Matrix:
    """Squared singular values, the largest first, summed over the cells."""
    rows, columns = cells.shape[-2:]
    if rows * columns * min(rows, columns) > _SINGLE:
        scale = float(np.abs(cells).max()) or 1.0
        return _energies_of((cells / scale).astype(np.float32)) * scale**2
    return _energies_of(cells)


def _energies_of(cells: npt.NDArray[np.floating]) -> Matrix:
    rows, columns = cells.shape[-2:]
    turned = cells.swapaxes(-1, -2)
    gram = cells @ turned if rows <= columns else turned @ cells
    values = np.maximum(np.linalg.eigvalsh(gram), 0)[..., ::-1]
    total: Matrix = values.reshape(-1, values.shape[-1]).sum(0, dtype=np.float64)
    return total


def _sum(one: Matrix, other: Matrix) -> Matrix:
    wide = np.zeros(max(len(one), len(other)))
    wide[: len(one)] += one
    wide[: len(other)] += other
    return wide
