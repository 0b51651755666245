"""Fabrics in the native library: described to it once, then called with the addresses of tensors.

Nothing is kept from call to call but the description; weights are read where they lie.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from operator import or_
from struct import Struct

import torch
from torch import Tensor

from ...errors import ConfigError
from ...fabric import Fabric
from ...native.description import Description
from ...native.library import library, why_not
from ..errors import OperandError
from ..steps import Gradients
from .base import Bound
from .threads import threads

__all__ = ["TYPES", "Compiled", "compiled"]

TYPES = {  # the library's number of an element type; the bits that are 0 in an aligned address
    torch.float32: (1, 3),
    torch.float16: (10, 1),
    torch.float64: (11, 7),
    torch.bfloat16: (16, 1),
}
THREADED_FLOPS = 2**23  # about 100 us on one core: less is not worth waking a thread

_IDENTITY = 0  # the activation

_Sizes = tuple[int, int]


def _any_empty(size: _Sizes, stride: _Sizes, dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cpu")


# What compiled models take their memory from, in half the time; not torch's public interface.
_empty: Callable[[_Sizes, _Sizes, torch.dtype], Tensor] = getattr(
    torch._C._dynamo.guards, "_empty_strided_cpu", _any_empty
)


class Compiled(Bound):
    """A fabric that the library knows.

    Factors and bias must be contiguous; x and gradients may have any strides.

    Args:
        fabric: what to apply.

    Raises:
        ConfigError: there is no library, or it does not take the fabric.
    """

    def __init__(self, fabric: Fabric) -> None:
        """Describe the fabric to the library."""
        native = library()
        if native is None:
            raise ConfigError(f"There is no native library: {why_not()}.")
        described = Description(fabric)
        numbers, indices = described.numbers(), described.indices()
        handle = ctypes.c_void_p()
        tables = (numbers.ctypes.data, numbers.size, indices.ctypes.data, indices.size)
        error = native.sparsify_create(*tables, ctypes.byref(handle))
        if error:
            raise ConfigError(f"{error.decode()} The fabric is {fabric}.")
        weakref.finalize(self, native.sparsify_destroy, handle.value).atexit = False
        self._handle = handle.value
        self._forward, self._backward = native.sparsify_forward, native.sparsify_backward
        self._in, self._out = fabric.in_features, fabric.out_features
        self._pack = Struct(f"{len(fabric.stages)}P").pack
        self._threaded_rows = THREADED_FLOPS // fabric.flops()

    def forward(self, x: Tensor, factors: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        """See Bound."""
        shape, width = x.shape, self._out
        if len(shape) == 2:
            rows = shape[0]
            y = _empty((rows, width), (width, 1), x.dtype)
        else:
            y = x.new_empty(*shape[:-1], width)
            rows = y.numel() // width
        if not rows:
            return y
        number, low_bits = TYPES[x.dtype]
        x, stride = (x, self._in) if x.is_contiguous() else _by_row(x, self._in)
        start, weights = x.data_ptr(), [factor.data_ptr() for factor in factors]
        offset = None if bias is None else bias.data_ptr()
        if not start or offset == 0 or _are_unfit(weights, start | (offset or 0), low_bits):
            x, *factors = _copies((x, *factors))
            return self.forward(x, factors, None if bias is None else _copies((bias,))[0])
        error = self._forward(
            self._handle,
            number,
            rows,
            start,
            stride,
            self._pack(*weights),
            offset,
            _IDENTITY,
            y.data_ptr(),
            None if rows < self._threaded_rows else threads(),
        )
        if error:
            raise OperandError(error.decode())
        return y

    def backward(
        self, grad: Tensor, x: Tensor, factors: Sequence[Tensor], needs: Sequence[bool]
    ) -> Gradients:
        """See Bound."""
        found = [
            operand.new_empty(operand.shape) if need else None
            for operand, need in zip((x, *factors), needs, strict=True)
        ]
        rows = x.numel() // self._in
        if not rows:
            return [None if one is None else one.zero_() for one in found]
        number, low_bits = TYPES[x.dtype]
        x, stride = _by_row(x, self._in)
        grad, grad_stride = _by_row(grad, self._out)
        start, flow, weights = x.data_ptr(), grad.data_ptr(), [f.data_ptr() for f in factors]
        if not start or not flow or _are_unfit(weights, start | flow, low_bits):
            grad, x, *factors = _copies((grad, x, *factors))
            return self.backward(grad, x, factors, needs)
        grad_x, *grads = (0 if one is None else one.data_ptr() for one in found)
        error = self._backward(
            self._handle,
            number,
            rows,
            flow,
            grad_stride,
            start,
            stride,
            self._pack(*weights),
            grad_x,
            self._pack(*grads),
            None if rows < self._threaded_rows else threads(),
        )
        if error:
            raise OperandError(error.decode())
        return found


@lru_cache(maxsize=1024)
def compiled(text: str) -> Compiled:
    """The compiled fabric of a JSON text; what is not asked for again is forgotten some time."""
    return Compiled(Fabric.from_json(text))


def _by_row(x: Tensor, width: int) -> tuple[Tensor, int]:
    """See x as rows whose features are contiguous; also gives the elements from row to row."""
    if x.is_contiguous():
        return x, width
    if x.dim() == 2 and x.stride(1) == 1:
        return x, x.stride(0)
    return x.contiguous(), width


def _are_unfit(weights: Sequence[int], others: int, low_bits: int) -> bool:
    """Whether a factor has no memory, or anything is not aligned to its elements.

    Args:
        weights: the addresses of the factors.
        others: the bits of all other addresses.
        low_bits: bits that are 0 in an aligned address.
    """
    return 0 in weights or bool(reduce(or_, weights, others) & low_bits)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors to memory that is aligned.

    Raises:
        OperandError: a tensor has no memory.
    """
    if not all(tensor.data_ptr() for tensor in tensors):
        raise OperandError(
            "The memory of an operand was given back (its storage was resized to nothing); call "
            "the layer while its parameters are there."
        )
    return [tensor.clone() for tensor in tensors]
