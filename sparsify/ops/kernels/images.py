"""Convolution of a fabric: channel mixing and one grouped convolution, piece after piece."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from ...fabric import Fabric, Stage
from ..steps import Gradients, PlainStep, fold, plain_branches, wrap
from ..window import Window
from .base import Bound
from .groups import Groups
from .pieces import Mixing, Piece, Sums, Taps
from .products import Products, are_products

__all__ = ["Images", "images"]


class _Track(NamedTuple):
    """A branch: the features at its ends, and its pieces, each with the places of its factors."""

    wide_in: int
    wide_out: int
    pieces: tuple[tuple[Piece, slice], ...]


class Images(Bound):
    """A fabric over the channels of images.

    Args:
        fabric: of Kronecker-sparse stages and shuffles.
        window: the geometry.
        is_near: whether images lie in the processor's own memory.
    """

    def __init__(self, fabric: Fabric, window: Window, is_near: bool) -> None:
        """Cut each branch into its spatial stage and the runs of steps before and after it."""
        self._fabric, self._window = fabric, window
        self._in, self._out, self._has_taps = fabric.in_features, fabric.out_features, False
        self._tracks: list[_Track] = []
        count = 0
        for branch in plain_branches(fabric):
            pieces = []
            for is_spatial, run in groupby(branch, _is_spatial):
                steps = tuple(run)
                piece = _piece(steps, window if is_spatial else None, is_near)
                pieces.append((piece, slice(count, count + len(piece.stages))))
                count += len(piece.stages)
                self._has_taps |= is_spatial
            ends = branch[0].in_features, branch[-1].out_features
            self._tracks.append(_Track(*ends, tuple(pieces)))

    def forward(self, x: Tensor, factors: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        """See Bound."""
        sampled = x if self._has_taps else self._window.enter(x, self._fabric)
        y: Tensor | None = None
        for track in self._tracks:
            values = sampled if track.wide_in == self._in else wrap(sampled, track.wide_in)
            for piece, place in track.pieces:
                values = piece.forward(values, factors[place])
            if track.wide_out != self._out:
                values = fold(values, self._out)
            y = values if y is None else y + values
        assert y is not None
        if not self._has_taps:
            y = self._window.leave(y, self._fabric)
        y = y.contiguous()
        return y if bias is None else y.add_(bias.view(-1, *(1,) * (x.dim() - 2)))

    def backward(
        self, grad: Tensor, x: Tensor, factors: Sequence[Tensor], needs: Sequence[bool]
    ) -> Gradients:
        """See Bound."""
        fabric, window = self._fabric, self._window
        sampled = window.enter(x, fabric)
        grad = window.leave_backward(grad, fabric, x.shape[2:])
        sums = [
            factor.new_zeros(factor.shape) if need else None
            for factor, need in zip(factors, needs[1:], strict=True)
        ]
        flows = [
            self._flow(track, grad, sampled, factors, sums, needs[0]) for track in self._tracks
        ]
        if not needs[0]:
            return [None, *sums]
        folded = [fold(flow, self._in) for flow in flows]
        total = folded[0] if len(folded) == 1 else sum(folded[1:], folded[0])
        return [window.enter_backward(total, fabric, x.shape[2:]).contiguous(), *sums]

    def _flow(
        self,
        track: _Track,
        grad: Tensor,
        x: Tensor,
        factors: Sequence[Tensor],
        sums: Sums,
        passes: bool,
    ) -> Tensor:
        """Send a gradient back through one branch."""
        inputs = [wrap(x, track.wide_in)]
        for piece, place in track.pieces[:-1]:
            inputs.append(piece.forward(inputs[-1], factors[place]))
        flow = wrap(grad, track.wide_out)
        start = track.pieces[0][1].start
        for (piece, place), values in zip(reversed(track.pieces), reversed(inputs), strict=True):
            goes_on = passes or _any(sums[start : place.start])
            if goes_on or _any(sums[place]):
                flow = piece.backward(flow, values, factors[place], sums[place], goes_on)
        return flow


@lru_cache(maxsize=1024)
def images(fabric: Fabric, window: Window, is_near: bool) -> Images:
    """The same, made once."""
    return Images(fabric, window, is_near)


def _piece(steps: tuple[PlainStep, ...], window: Window | None, is_near: bool) -> Piece:
    if window is not None:
        return Groups(steps, window) if is_near else Taps(steps, window)
    return Products(steps) if is_near and are_products(steps) else Mixing(steps)


def _any(sums: Sums) -> bool:
    return any(total is not None for total in sums)


def _is_spatial(step: PlainStep) -> bool:
    return isinstance(step, Stage) and bool(step.kernel)
