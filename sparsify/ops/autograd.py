"""Derivatives of the operators, of any order.

The first derivative is an operator of its own, so that a kernel may write it by hand. It keeps the
input and the factors, nothing else, and recomputes what lies between the stages: training needs no
more memory than with the dense layer. Derivatives of that one go through the formulas, which are
plain torch and so can be differentiated again. The transforms of `torch.func` (grad, jvp, hessian)
and forward mode get the formulas at once, because they do not take an `autograd.Function`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import formula
from .schema import LIBRARY
from .window import Window

__all__ = ["Forward"]

_ops = torch.ops.sparsify
_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_AFTER = torch._C._after_autograd_keyset


def _in_transform() -> bool:
    """Whether a transform of torch.func, or forward-mode differentiation, wants the formula."""
    return bool(torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


class Forward(torch.autograd.Function):
    """y of the operands bias (or None), x, *factors.

    `compute` gets x, the factors and the bias; `derivative` what the backward operators get, where
    `rest` is the fabric, then the window of a convolution.
    """

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable[[Tensor, Sequence[Tensor], Tensor | None], Tensor],
        derivative: Callable[..., list[Tensor]],
        rest: tuple[Any, ...],
        bias: Tensor | None,
        *operands: Tensor,
    ) -> Tensor:
        """Keep the input and the factors."""
        ctx.save_for_backward(*operands)
        ctx.derivative = derivative
        ctx.rest = rest
        return compute(operands[0], operands[1:], bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Ask the derivative for what is needed; a bias gets the sum over all rows."""
        x, *factors = ctx.saved_tensors
        _, _, _, need_bias, *needs = ctx.needs_input_grad
        grad_bias = None
        if need_bias:  # the rest of a convolution has its window
            is_image = len(ctx.rest) > 1
            grad_bias = (
                grad.transpose(0, 1).flatten(1).sum(1)
                if is_image
                else grad.sum_to_size(grad.shape[-1])
            )
        found = iter(ctx.derivative(grad, x, factors, *ctx.rest, needs) if any(needs) else ())
        grads = (next(found) if need else None for need in needs)
        return (None, None, None, grad_bias, *grads)


class _Backward(torch.autograd.Function):
    """The gradients that `rest[-1]` asks for, of the operands grad, x, *factors."""

    @staticmethod
    def forward(
        ctx: Any, keys: Any, op: Any, rest: tuple[Any, ...], *operands: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*operands)
        ctx.rest = rest
        with _BelowAutograd():
            return tuple(op.redispatch(keys, *operands[:2], operands[2:], *rest))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[3:]
        found = iter(_differentiate(ctx.saved_tensors, ctx.rest, grads, needs))
        return (None, None, None, *(next(found) if need else None for need in needs))


def _differentiate(
    operands: Sequence[Tensor],
    rest: tuple[Any, ...],
    grads: Sequence[Tensor],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Differentiate the gradients once more; the result can be differentiated in its turn."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that one tensor in two places gets a gradient for each place.
        own = [x.view_as(x) if x.requires_grad else x.detach() for x in operands]
        outputs = formula.gradients(own[0], own[1], own[2:], *rest)
        pairs = [(y, grad) for y, grad in zip(outputs, grads, strict=True) if y.requires_grad]
        return torch.autograd.grad(
            [y for y, _ in pairs],
            [x for x, need in zip(own, needs, strict=True) if need],
            [grad for _, grad in pairs],
            create_graph=again,
            allow_unused=True,
        )


_apply: Callable[..., Tensor] = Forward.apply


def _linear_rule(
    keys: Any, x: Tensor, factors: list[Tensor], text: str, bias: Tensor | None = None
) -> Tensor:
    if _in_transform():
        return formula.apply(x, factors, text, bias)

    def compute(x: Tensor, factors: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        with _BelowAutograd():
            y: Tensor = _ops.fabric.default.redispatch(keys & _AFTER, x, factors, text, bias)
        return y

    return _differentiably(compute, _ops.fabric_backward.default, (text,), x, factors, bias)


def _conv_rule(keys: Any, x: Tensor, factors: list[Tensor], text: str, *window: Any) -> Tensor:
    rest = (text, *Window.of(*window))  # with what the dispatcher leaves out: the defaults
    if _in_transform():
        return formula.apply_conv(x, factors, *rest)

    def compute(x: Tensor, factors: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        with _BelowAutograd():
            y: Tensor = _ops.fabric_conv.default.redispatch(keys & _AFTER, x, factors, *rest)
        return y

    return _differentiably(compute, _ops.fabric_conv_backward.default, rest, x, factors, None)


def _differentiably(
    compute: Callable[[Tensor, Sequence[Tensor], Tensor | None], Tensor],
    derivative: Callable[..., list[Tensor]],
    rest: tuple[Any, ...],
    x: Tensor,
    factors: Sequence[Tensor],
    bias: Tensor | None,
) -> Tensor:
    operands = (x, *factors) if bias is None else (x, *factors, bias)
    if torch.is_grad_enabled() and any(operand.requires_grad for operand in operands):
        return _apply(compute, derivative, rest, bias, x, *factors)
    return compute(x, factors, bias)


def _backward_rule(name: str) -> Callable[..., list[Tensor]]:
    op = getattr(torch.ops.sparsify, name).default
    apply: Callable[..., tuple[Tensor, ...]] = _Backward.apply

    def rule(keys: Any, grad: Tensor, x: Tensor, factors: list[Tensor], *rest: Any) -> list[Tensor]:
        if _in_transform():
            return formula.gradients(grad, x, factors, *rest)
        keys &= _AFTER
        operands = (grad, x, *factors)
        if torch.is_grad_enabled() and any(operand.requires_grad for operand in operands):
            return list(apply(keys, op, rest, *operands))
        with _BelowAutograd():
            found: list[Tensor] = op.redispatch(keys, grad, x, factors, *rest)
        return found

    return rule


for _name, _rule in (("fabric", _linear_rule), ("fabric_conv", _conv_rule)):
    LIBRARY.impl(_name, _rule, "Autograd", with_keyset=True)
    _derivative = f"{_name}_backward"
    LIBRARY.impl(_derivative, _backward_rule(_derivative), "Autograd", with_keyset=True)
