"""The short way to a kernel: past torch's dispatcher, where nobody is watching it.

An operator costs 20 us of Python per call, many times what a small layer computes. All of that is
for those who watch operators: modes, transforms, autocast, tracers, tensors that are no plain CPU
tensors. A call goes the short way only where there is none of them and its operands are just like
those of a call before, which the guards of torch.compile prove in one C++ function: types, dispatch
keys, dtype, device, need of gradients and sizes. Whatever the thread adds to the dispatch keys of
its tensors (modes, transforms, autocast, tracing) they see too. Every other call goes to the
operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from ..fabric import Fabric
from .autograd import Forward
from .dispatch import forced_kernel, select
from .formula import wanted
from .kernels.base import Bound
from .schema import check
from .window import Window

try:  # not torch's public interface: where a version has it not, all calls go to the operators
    from torch._C import (
        _are_functorch_transforms_active,
        _dispatch_keys,
        _is_any_autocast_enabled,
        _is_tracing,
        _len_torch_dispatch_stack,
        _len_torch_function_stack,
    )
    from torch._C._autograd import _profiler_enabled
    from torch._C._dynamo.guards import TensorGuards

    _ = forward_ad._current_level
except (ImportError, AttributeError):
    is_available = False
else:
    is_available = True

__all__ = ["backward", "convolve", "is_available", "linear"]

KINDS_OF_CALLS = 8  # that are remembered for a fabric

_Calls = list[tuple[Any, Callable[..., Any]]]  # guards, and what serves the calls that pass them

_is_compiling = torch.compiler.is_dynamo_compiling
# Without the care that transforms need.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, Forward).apply


def linear(x: Tensor, factors: Sequence[Tensor], text: str, bias: Tensor | None) -> Tensor | None:
    """Compute what `sparsify::fabric` returns.

    Returns:
        The result; None where the operator must be called.

    Raises:
        OperandError: an operand does not fit.
    """
    return _forward(x, factors, text, None, bias)


def convolve(
    x: Tensor, factors: Sequence[Tensor], text: str, window: Window, bias: Tensor | None
) -> Tensor | None:
    """Compute what `sparsify::fabric_conv` returns, and add a bias to each channel.

    Returns:
        The result; None where the operator must be called.

    Raises:
        OperandError: an operand does not fit.
    """
    return _forward(x, factors, text, window, bias)


def _forward(
    x: Tensor, factors: Sequence[Tensor], text: str, window: Window | None, bias: Tensor | None
) -> Tensor | None:
    if _is_compiling() or not is_available or _is_watched():
        return None
    operands = (x, *factors) if bias is None else (x, *factors, bias)
    trains = torch.is_grad_enabled()
    calls = _calls(text, window, len(factors), bias is None, trains, forced_kernel())
    for guards, run in calls:
        if guards.check(*operands):
            y: Tensor = run(x, factors, bias)
            return y
    if not _are_plain(operands, 1):
        return None
    if window is not None:
        window.check(x, Fabric.from_json(text))
    check(x, factors, Fabric.from_json(text), _axis(window), bias)
    run = _bound(text, x.dtype, window).forward
    if trains and any(operand.requires_grad for operand in operands):
        run = partial(_train, run, (text,) if window is None else (text, *window))
    _remember(calls, operands, 1, _axis(window), run)
    y = run(x, factors, bias)
    return y


def _axis(window: Window | None) -> int:
    return -1 if window is None else 1


def _bound(text: str, dtype: torch.dtype, window: Window | None) -> Bound:
    kernel, fabric = select(text, "cpu", dtype, window is not None), Fabric.from_json(text)
    return kernel.bind(fabric) if window is None else kernel.bind_conv(fabric, window)


def _train(
    run: Callable[..., Tensor],
    rest: tuple[Any, ...],
    x: Tensor,
    factors: Sequence[Tensor],
    bias: Tensor | None,
) -> Tensor:
    return _apply(run, backward, rest, bias, x, *factors)


def backward(
    grad: Tensor, x: Tensor, factors: Sequence[Tensor], text: str, *rest: Any
) -> list[Tensor]:
    """Compute what the backward operators return, the short way or by calling them."""
    *geometry, needs = rest
    if not (_is_compiling() or torch.is_grad_enabled() or _is_watched()):
        window = Window(*geometry) if geometry else None
        operands = (grad, x, *factors)
        calls = _calls(text, window, len(factors), None, False, forced_kernel())
        for guards, run in calls:
            if guards.check(*operands):
                return wanted(run(grad, x, factors, needs))
        if _are_plain(operands, 2):
            run = _bound(text, x.dtype, window).backward
            _remember(calls, operands, 2, _axis(window), run)
            return wanted(run(grad, x, factors, needs))
    ops = torch.ops.sparsify
    op = ops.fabric_conv_backward if geometry else ops.fabric_backward
    found: list[Tensor] = op(grad, x, factors, text, *rest)
    return found


def _is_watched() -> bool:
    """Whether there is anybody whom the dispatch keys do not show."""
    return bool(
        _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or forward_ad._current_level >= 0
        or _profiler_enabled()
    )


@lru_cache(maxsize=4096)
def _calls(
    text: str,
    window: Window | None,
    factors: int,
    is_without_bias: bool | None,
    has_grad: bool,
    kernel: str | None,
) -> _Calls:
    """The kinds of calls that were seen in a grad mode and with a kernel, which guards do not see.

    Those of the backward where `is_without_bias` is None.
    """
    return []


def _are_plain(operands: Sequence[Tensor], moving: int) -> bool:
    """Whether a call may be remembered.

    Args:
        operands: of the call.
        moving: how many of them, the first, have any strides and numbers of rows or positions; the
            others are parameters.
    """
    return not (
        _are_functorch_transforms_active() or _is_any_autocast_enabled() or _is_tracing()
    ) and all(
        type(operand) in (Tensor, Parameter)
        and _dispatch_keys(operand).raw_repr() in _plain_keys()
        and (place < moving or operand.is_contiguous())
        for place, operand in enumerate(operands)
    )


@lru_cache(maxsize=1)
def _plain_keys() -> frozenset[int]:
    """The dispatch keys of dense tensors on the CPU: not lazily negated, functional or the like."""
    found = []
    for mode in (False, True):
        with torch.inference_mode(mode):
            found.append(_dispatch_keys(torch.empty(0, device="cpu")).raw_repr())
    return frozenset(found)


def _remember(
    calls: _Calls, operands: Sequence[Tensor], moving: int, axis: int, run: Callable[..., Any]
) -> None:
    """Let calls of this kind go the short way; `axis` is that of the features."""
    sizes: Any = [list(operand.shape) for operand in operands]  # None: any number
    strides: Any = [list(operand.stride()) for operand in operands]
    for place in range(moving):
        axes, features = len(sizes[place]), sizes[place][axis]
        sizes[place], strides[place] = [None] * axes, [None] * axes
        sizes[place][axis] = features
    guards = TensorGuards(*operands, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    calls.insert(0, (guards, run))
    del calls[KINDS_OF_CALLS:]
