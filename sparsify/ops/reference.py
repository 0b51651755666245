"""The truth: what every kernel computes, in plain differentiable torch.

Channels are axis 1 throughout, so that one text serves the linear operator, where x is
(rows, in_features), and the convolution, where x is (samples, in_features, *positions).

Everything here may be differentiated any number of times, batched by `torch.vmap` and traced, so it
also answers where an operator needs a formula more than speed: second derivatives, batched weights.
A graph stage is multiplied as the dense matrix that it is a part of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..fabric import Fabric, GraphStage, Shuffle, Stage
from .graph import dense_steps, edge_weight
from .steps import Gradients, PlainStep, fold, link, permutation, wrap
from .window import Window, spatial, spatial_backward

__all__ = ["backward", "forward"]


def forward(
    x: Tensor, factors: Sequence[Tensor], fabric: Fabric, window: Window | None = None
) -> Tensor:
    """Apply a fabric.

    Args:
        x: (rows, in_features), or (samples, in_features, *positions) with a window.
        factors: one per stage, of `stage.shape`, in the order of `fabric.stages`.
        fabric: what to apply.
        window: the geometry of a convolution, None for the linear operator.

    Returns:
        (rows, out_features), or (samples, out_features, *positions).

    Example:
        >>> fabric = Fabric(4, 4, ((Stage(2, 2, 2, 1),),))
        >>> forward(torch.ones(3, 4), [torch.ones(2, 1, 2, 2)], fabric)[0].tolist()
        [2.0, 2.0, 2.0, 2.0]

    Reference:
        ClosNets, arXiv 1802.03885.
    """
    if window:
        x = window.enter(x, fabric)
    outputs = []
    for branch, weights in link(fabric, factors):
        values = wrap(x, branch[0].in_features)
        for step, weight in zip(*dense_steps(branch, weights), strict=True):
            values = _apply(values, weight, step, window)
        outputs.append(fold(values, fabric.out_features))
    y = sum(outputs[1:], outputs[0])
    return window.leave(y, fabric) if window else y


def backward(
    grad: Tensor,
    x: Tensor,
    factors: Sequence[Tensor],
    fabric: Fabric,
    needs: Sequence[bool],
    window: Window | None = None,
) -> Gradients:
    """Gradients of a fabric: the chain rule, written out.

    Args:
        grad: gradient of the output, of the output's shape.
        x: the input of the forward call.
        factors: the factors of the forward call.
        fabric: what was applied.
        needs: whether the gradient of x, then of each factor, is asked for.
        window: as in the forward call.

    Returns:
        The gradients of x and of each factor, None where not asked for.

    Example:
        >>> fabric = Fabric(1, 1, ((Stage(1, 1, 1, 1),),))
        >>> one = torch.ones(1, 1)
        >>> backward(one, 3 * one, [one.view(1, 1, 1, 1)], fabric, (False, True))[1].item()
        3.0
    """
    sampled = window.enter(x, fabric) if window else x
    grad = window.leave_backward(grad, fabric, x.shape[2:]) if window else grad
    flows: list[Tensor] = []
    grads: list[Tensor] = []
    for branch, weights in link(fabric, factors):
        steps, dense = dense_steps(branch, weights)
        inputs = [wrap(sampled, branch[0].in_features)]
        for step, weight in zip(steps[:-1], dense, strict=False):
            inputs.append(_apply(inputs[-1], weight, step, window))
        flow = wrap(grad, branch[-1].out_features)
        found: list[Tensor] = []
        places = zip(branch, steps, dense, inputs, strict=True)
        for own, step, weight, values in reversed(list(places)):
            if isinstance(step, Stage):
                gradient = _weight_gradient(flow, values, weight, step, window)
                found.append(
                    edge_weight(gradient, own) if isinstance(own, GraphStage) else gradient
                )
            flow = _apply_transposed(flow, values, weight, step, window)
        grads += reversed(found)
        flows.append(fold(flow, fabric.in_features))
    flow = sum(flows[1:], flows[0])
    if window:
        flow = window.enter_backward(flow, fabric, x.shape[2:])
    return [g if need else None for g, need in zip((flow, *grads), needs, strict=True)]


def _blocks(x: Tensor, stage: Stage, width: int) -> Tensor:
    """See channels as (samples, a, width, d, positions), width being b or c."""
    return x.reshape(x.shape[0], stage.a, width, stage.d, math.prod(x.shape[2:]))


def _apply(x: Tensor, weight: Tensor, step: PlainStep, window: Window | None) -> Tensor:
    if isinstance(step, Shuffle):
        return x.index_select(1, permutation(step, x.device))
    if step.kernel and window:
        return spatial(x, weight, step, window)
    mixed = torch.einsum("adbc,nacds->nabds", weight, _blocks(x, step, step.c))
    return mixed.reshape(x.shape[0], step.out_features, *x.shape[2:])


def _apply_transposed(
    grad: Tensor, values: Tensor, weight: Tensor, step: PlainStep, window: Window | None
) -> Tensor:
    if isinstance(step, Shuffle):
        return grad.index_select(1, permutation(step, grad.device, inverse=True))
    if step.kernel and window:
        return spatial_backward(grad, values, weight, step, window, (True, False))[0]
    mixed = torch.einsum("adbc,nabds->nacds", weight, _blocks(grad, step, step.b))
    return mixed.reshape(grad.shape[0], step.in_features, *grad.shape[2:])


def _weight_gradient(
    grad: Tensor, values: Tensor, weight: Tensor, stage: Stage, window: Window | None
) -> Tensor:
    if stage.kernel and window:
        return spatial_backward(grad, values, weight, stage, window, (False, True))[1]
    return torch.einsum(
        "nabds,nacds->adbc", _blocks(grad, stage, stage.b), _blocks(values, stage, stage.c)
    )
