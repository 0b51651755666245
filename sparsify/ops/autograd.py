"""Derivatives of the operators, of any order.

The first derivative is an operator of its own, so that a kernel may write it by hand. It keeps the
input and the factors, nothing else, and recomputes what lies between the stages: training needs no
more memory than with the dense layer. Derivatives of that one go through the formulas, which are
plain torch and so can be differentiated again. The transforms of `torch.func` (grad, jvp, hessian)
get the formulas at once, because they do not take an `autograd.Function`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import formula
from .schema import LIBRARY

__all__: list[str] = []

_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_AFTER = torch._C._after_autograd_keyset
_in_transform = torch._C._are_functorch_transforms_active


class _Forward(torch.autograd.Function):
    """y of the operands x, *factors; `rest` is the fabric, then the window of a convolution."""

    @staticmethod
    def forward(
        ctx: Any, keys: Any, op: Any, derivative: Any, rest: tuple[Any, ...], *operands: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*operands)
        ctx.derivative = derivative
        ctx.rest = rest
        with _BelowAutograd():
            y: Tensor = op.redispatch(keys, operands[0], operands[1:], *rest)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        needs = ctx.needs_input_grad[4:]
        found = iter(ctx.derivative(grad, x, factors, *ctx.rest, needs))
        return (None, None, None, None, *(next(found) if need else None for need in needs))


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


def _forward_rule(name: str) -> Callable[..., Tensor]:
    packet = getattr(torch.ops.sparsify, name)
    op = packet.default
    derivative = getattr(torch.ops.sparsify, f"{name}_backward").default
    apply: Callable[..., Tensor] = _Forward.apply

    def rule(keys: Any, x: Tensor, factors: list[Tensor], *rest: Any) -> Tensor:
        if _in_transform():
            return formula.apply(x, factors, *rest)
        keys &= _AFTER
        if torch.is_grad_enabled() and (
            x.requires_grad or any(factor.requires_grad for factor in factors)
        ):
            y: Tensor = apply(keys, op, derivative, rest, x, *factors)
            return y
        with _BelowAutograd():
            y = op.redispatch(keys, x, factors, *rest)
        return y

    return rule


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


for _name in ("fabric", "fabric_conv"):
    LIBRARY.impl(_name, _forward_rule(_name), "Autograd", with_keyset=True)
    _derivative = f"{_name}_backward"
    LIBRARY.impl(_derivative, _backward_rule(_derivative), "Autograd", with_keyset=True)
