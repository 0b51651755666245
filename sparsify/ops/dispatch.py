"""Which kernel runs: the best that supports a request, or the one that was forced."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch

from ..errors import ConfigError
from ..fabric import Fabric
from .errors import OperandError
from .kernels import KERNELS
from .kernels.base import Kernel, Request

__all__ = ["forced_kernel", "kernel_names", "select", "use_kernel"]

_log = logging.getLogger(__name__)
_forced: ContextVar[str | None] = ContextVar("sparsify_kernel", default=None)


@lru_cache(maxsize=64)
def _kernel(name: str) -> Kernel:
    kernel: Kernel = KERNELS[name]()
    return kernel


def kernel_names() -> tuple[str, ...]:
    """Names of the kernels, in the order in which they are tried.

    Example:
        >>> "reference" in kernel_names()
        True
    """
    return tuple(KERNELS)


@contextmanager
def use_kernel(name: str) -> Iterator[None]:
    """Force one kernel for all operators called within, forward and backward.

    The choice belongs to the calling thread; the backward of tensors on another device than the
    CPU runs on a thread of torch's own, which chooses by itself.

    Args:
        name: one of `kernel_names()`.

    Raises:
        ConfigError: there is no such kernel; or, at a call within, it cannot serve that call.

    Example:
        >>> with use_kernel("reference"):
        ...     y = layer(x)  # doctest: +SKIP
    """
    _kernel(name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


forced_kernel = _forced.get
"""The name of the kernel that was forced, None where the choice is free."""


def select(text: str, device: str, dtype: torch.dtype, convolution: bool) -> Kernel:
    """Choose the kernel of a call.

    Args:
        text: the fabric, as JSON.
        device: device type, such as "cpu".
        dtype: of the operands.
        convolution: whether the input has positions.

    Raises:
        ConfigError: the forced kernel does not support the call.
    """
    return _select(_forced.get(), text, device, dtype, convolution)


@lru_cache(maxsize=4096)
def _select(
    forced: str | None, text: str, device: str, dtype: torch.dtype, convolution: bool
) -> Kernel:
    fabric = Fabric.from_json(text)
    if fabric.kernel and not convolution:
        raise OperandError(
            f"{fabric} has stages with a kernel, and positions to apply it to are missing. "
            "Use fabric_conv."
        )
    request = Request(fabric, device, dtype, convolution)
    reasons = {}
    for name in (forced,) if forced else kernel_names():
        kernel = _kernel(name)
        reason = kernel.unsupported(request)
        if reason is None:
            _log.debug("kernel %r for %s, %s on %s", name, fabric, dtype, device)
            return kernel
        reasons[name] = reason
        _log.debug("kernel %r passed over: %s", name, reason)
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise ConfigError(
        f"No kernel can run {fabric} in {dtype} on {device} ({listed}). "
        "Leave the block of use_kernel, or force another kernel."
    )
