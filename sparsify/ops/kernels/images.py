"""Convolution of a fabric: channel mixing and one grouped convolution, piece after piece."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from ...fabric import Fabric, Stage
from ..steps import Gradients, PlainStep, fold, plain_branches, wrap
from ..window import Window
from .pieces import Mixing, Piece, Taps

__all__ = ["backward", "forward"]


def forward(x: Tensor, factors: Sequence[Tensor], fabric: Fabric, window: Window) -> Tensor:
    """See `Kernel.forward_conv`."""
    sampled = window.enter(x, fabric)
    outputs = []
    for branch, pieces in zip(fabric.branches, _pieces(fabric, factors, window), strict=True):
        values = wrap(sampled, branch[0].in_features)
        for piece in pieces:
            values = piece.forward(values)
        outputs.append(fold(values, fabric.out_features))
    return window.leave(sum(outputs[1:], outputs[0]), fabric).contiguous()


def backward(
    grad: Tensor,
    x: Tensor,
    factors: Sequence[Tensor],
    fabric: Fabric,
    needs: Sequence[bool],
    window: Window,
) -> Gradients:
    """See `Kernel.backward_conv`."""
    sampled = window.enter(x, fabric)
    grad = window.leave_backward(grad, fabric, x.shape[2:])
    grads = [
        factor.new_zeros(factor.shape) if need else None
        for factor, need in zip(factors, needs[1:], strict=True)
    ]
    flows = []
    all_pieces = _pieces(fabric, factors, window, grads)
    for branch, pieces in zip(fabric.branches, all_pieces, strict=True):
        inputs = [wrap(sampled, branch[0].in_features)]
        for piece in pieces[:-1]:
            inputs.append(piece.forward(inputs[-1]))
        flow = wrap(grad, branch[-1].out_features)
        for place in reversed(range(len(pieces))):
            passes = needs[0] or any(piece.is_wanted for piece in pieces[:place])
            if passes or pieces[place].is_wanted:
                flow = pieces[place].backward(flow, inputs[place], passes)
        flows.append(flow)
    if not needs[0]:
        return [None, *grads]
    folded = [fold(flow, fabric.in_features) for flow in flows]
    grad_x = window.enter_backward(sum(folded[1:], folded[0]), fabric, x.shape[2:])
    return [grad_x.contiguous(), *grads]


def _pieces(
    fabric: Fabric,
    factors: Sequence[Tensor],
    window: Window,
    grads: Sequence[Tensor | None] | None = None,
) -> list[list[Piece]]:
    """Cut each branch into its spatial stage and the runs of steps before and after it."""
    weights = iter(factors)
    sums = iter(grads or [None] * len(factors))
    cut: list[list[Piece]] = []
    for branch in plain_branches(fabric):
        pieces: list[Piece] = []
        for is_spatial, run in groupby(branch, _is_spatial):
            steps = tuple(run)
            own = [(next(weights), next(sums)) for step in steps if isinstance(step, Stage)]
            part = (steps, [weight for weight, _ in own], [total for _, total in own])
            pieces.append(Taps(*part, window) if is_spatial else Mixing(*part))
        cut.append(pieces)
    return cut


def _is_spatial(step: PlainStep) -> bool:
    return isinstance(step, Stage) and bool(step.kernel)
