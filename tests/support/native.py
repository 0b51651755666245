"""The native core through its C interface: ctypes and numpy, no torch.

Arrays lie where a caller's may lie: aligned to their elements only, rows apart, next to memory that
must not be read or written.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify.fabric import Fabric, GraphStage, Shuffle
from sparsify.native import library

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BLOCKS, TRANSPOSE, PERMUTATION, GRAPH = range(4)
ACTIVATIONS = {"identity": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4}

TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
PARALLEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, TASK, ctypes.c_void_p, ctypes.c_int64)


class CoreError(Exception):
    """What the core says is wrong."""


@dataclass(frozen=True)
class Type:
    """An element type of the core.

    Args:
        name: ours.
        number: the header's.
        stored: what numpy holds; bfloat16 is unknown to it, so bits.
        most: the relative error that the core may make.
    """

    name: str
    number: int
    stored: Any
    most: float

    def store(self, values: Floats) -> Array:
        """The values rounded to this type, to nearest even."""
        if self.name != "bfloat16":
            return values.astype(self.stored)
        bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

    def read(self, stored: Array) -> Floats:
        """The values that are stored."""
        if self.name == "bfloat16":
            bits = np.ascontiguousarray(stored).astype(np.uint32) << 16
            return bits.view(np.float32).astype(np.float64)
        return stored.astype(np.float64)


TYPES = {
    kind.name: kind
    for kind in (
        Type("float32", 1, np.float32, 1e-6),
        Type("float16", 10, np.float16, 1e-2),
        Type("float64", 11, np.float64, 1e-12),
        Type("bfloat16", 16, np.uint16, 1e-2),
    )
}


# ------------------------------------------------------------------------------ descriptions


def described(fabric: Fabric) -> tuple[Integers, Integers]:
    """A fabric's description and indices, as the header asks for them."""
    head = [fabric.in_features, fabric.out_features, len(fabric.branches)]
    head += [len(branch) for branch in fabric.branches]
    numbers: list[int] = []
    indices: list[Integers] = []
    start = 0
    for step in (step for branch in fabric.branches for step in branch):
        reads = np.zeros(0, np.int64)
        if isinstance(step, GraphStage):
            reads = step.neighbours()
            numbers += [GRAPH, step.in_features, step.out_features, step.degree, start]
        elif not isinstance(step, Shuffle):
            numbers += [BLOCKS, step.a, step.b, step.c, step.d]
        elif step.stride is not None:
            numbers += [TRANSPOSE, step.size, step.stride, 0, 0]
        else:
            reads = step.permutation()
            numbers += [PERMUTATION, step.size, start, 0, 0]
        indices.append(reads.reshape(-1))
        start += reads.size
    return np.array(head + numbers, np.int64), np.concatenate(indices).astype(np.int64)


def steps_of(description: Integers) -> list[list[tuple[int, ...]]]:
    """The five numbers of every step, branch by branch."""
    numbers = [int(number) for number in description]
    counts = numbers[3 : 3 + numbers[2]]
    rest = iter(zip(*[iter(numbers[3 + numbers[2] :])] * 5, strict=True))
    return [[next(rest) for _ in range(count)] for count in counts]


def weight_shapes(description: Integers) -> list[tuple[int, ...]]:
    """The shape of each factor."""
    shapes: list[tuple[int, ...]] = []
    for kind, p, q, r, s in (step for branch in steps_of(description) for step in branch):
        if kind == BLOCKS:
            shapes.append((p, s, q, r))
        elif kind == GRAPH:
            shapes.append((q, r))
    return shapes


# ------------------------------------------------------------------------------ memory


@dataclass(frozen=True)
class Placed:
    """An array in memory whose every other byte is 0xFF: not a number, of whatever type."""

    array: Array
    memory: Array

    @property
    def address(self) -> int:
        """Where its first element lies."""
        return int(self.array.ctypes.data)

    @property
    def stride(self) -> int:
        """Elements from row to row."""
        return int(self.array.strides[0]) // self.array.itemsize

    def strays(self) -> int:
        """How many bytes around it were written."""
        before = self.memory.copy()
        offset = self.address - int(self.memory.ctypes.data)
        inside = np.ndarray(
            self.array.shape, self.array.dtype, before.data, offset, self.array.strides
        )
        if inside.size:
            inside[...] = np.full(inside.itemsize, 0xFF, np.uint8).view(inside.dtype)[0]
        return int(np.count_nonzero(before != 0xFF))


PLACES = ("exact", "guarded", "before a fence", "behind a fence")
"""Where arrays lie.

exact: at the end of their allocation, which the address sanitizer watches. guarded: memory around
them that must not change. Fences are pages that nobody may touch.
"""


def place(
    shape: Sequence[int], stored: Any, where: str, shift: int = 0, stride: int = -1
) -> Placed:
    """Memory for an array, all 0xFF.

    Args:
        shape: of the array.
        stored: the numpy type.
        where: one of `PLACES`.
        shift: elements between an aligned address and the array, where the place leaves a choice.
        stride: elements from row to row, 0 or more; contiguous where negative.
    """
    size = np.dtype(stored).itemsize
    rows, width = shape[0], int(np.prod(shape[1:], dtype=np.int64))
    stride = width if stride < 0 else stride
    length = size * ((rows - 1) * stride + width if rows and width else 0)
    if where == "exact":
        memory = np.full(shift * size + length, 0xFF, np.uint8)
        offset = shift * size
    elif where == "guarded":
        memory = np.full(length + 64 * size * 4, 0xFF, np.uint8)
        offset = -int(memory.ctypes.data) % 64 + (64 + shift) * size
    else:
        memory = _fenced(length, before=where == "behind a fence")
        offset = 0 if where == "behind a fence" else memory.size - length
    inner = np.cumprod([1, *shape[:0:-1]])[-2::-1] if len(shape) > 1 else []
    strides = [stride * size if len(shape) > 1 else size, *(int(i) * size for i in inner)]
    return Placed(np.ndarray(tuple(shape), stored, memory.data, offset, tuple(strides)), memory)


def _fenced(length: int, before: bool) -> Array:
    """Whole pages of memory, with a fence before or behind them."""
    page = mmap.PAGESIZE
    inner = max(1, -(-length // page)) * page
    pages = np.frombuffer(mmap.mmap(-1, inner + page), np.uint8)
    start = int(pages.ctypes.data) + (0 if before else inner)
    if sys.platform != "win32" and ctypes.CDLL(None).mprotect(
        ctypes.c_void_p(start), ctypes.c_size_t(page), 0
    ):
        raise OSError("mprotect failed")
    memory = pages[page:] if before else pages[:inner]
    memory[:] = 0xFF
    return memory


# ------------------------------------------------------------------------------ threads


class _Threads(ctypes.Structure):
    _fields_ = (
        ("threads", ctypes.c_int64),
        ("parallel", PARALLEL),
        ("pool", ctypes.c_void_p),
    )


class Threads:
    """A pool for the core, which remembers how many tasks each call brought.

    Args:
        count: tasks at most.
        order: "backwards" on the calling thread, or "parallel" on Python's threads.
    """

    def __init__(self, count: int, order: str = "backwards") -> None:
        self.tasks: list[int] = []
        self._run = {"backwards": _backwards, "parallel": _in_parallel}[order]
        self.struct = _Threads(count, PARALLEL(self._parallel), None)

    def _parallel(self, _pool: Any, task: Callable[..., None], context: Any, tasks: int) -> None:
        self.tasks.append(tasks)
        self._run(lambda index: task(context, index), tasks)


def _backwards(task: Callable[[int], None], tasks: int) -> None:
    for index in reversed(range(tasks)):
        task(index)


def _in_parallel(task: Callable[[int], None], tasks: int) -> None:
    with ThreadPoolExecutor(max(1, tasks)) as pool:
        list(pool.map(task, range(tasks)))


# ------------------------------------------------------------------------------ calls


@lru_cache(maxsize=1)
def core() -> ctypes.CDLL:
    """The library with the types of the header, independent of those that the package gives it."""
    path = library.path()
    if path is None:
        raise CoreError(f"no native library: {library.why_not()}")
    loaded = ctypes.CDLL(str(path))
    pointer, integer, kind = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    signatures: dict[str, list[Any]] = {
        "sparsify_use_isa": [ctypes.c_char_p],
        "sparsify_isa": [],
        "sparsify_create": [pointer, integer, pointer, integer, ctypes.POINTER(pointer)],
        "sparsify_destroy": [pointer],
        "sparsify_forward": [
            *(pointer, kind, integer, pointer, integer),
            *(pointer, pointer, kind, pointer, pointer),
        ],
        "sparsify_backward": [
            *(pointer, kind, integer, pointer, integer, pointer, integer),
            *(pointer, pointer, pointer, pointer),
        ],
    }
    for name, arguments in signatures.items():
        function = getattr(loaded, name)
        function.argtypes = arguments
        function.restype = ctypes.c_char_p
    loaded.sparsify_destroy.restype = None
    return loaded


def instruction_sets() -> list[str]:
    """Those that this machine and library have, best first; the one in use stays in use."""
    used = core().sparsify_isa()
    names = ("avx512", "avx2", "neon", "baseline")
    found = [name for name in names if core().sparsify_use_isa(name.encode()) is None]
    core().sparsify_use_isa(used)
    return found


def use_isa(name: str) -> None:
    """Compute with an instruction set."""
    _raise(core().sparsify_use_isa(name.encode()))


def _raise(message: bytes | None) -> None:
    if message is not None:
        raise CoreError(message.decode())


def _fence_behind(values: Any, stored: Any) -> Placed:
    """Numbers that nobody can read beyond."""
    numbers = np.array(values, stored)
    placed = place(numbers.shape, stored, "before a fence")
    placed.array[...] = numbers
    return placed


def _pointers(arrays: Sequence[Placed | None]) -> Placed:
    return _fence_behind([array.address if array else 0 for array in arrays], np.uintp)


class Compiled:
    """A fabric that the core has compiled.

    Raises:
        CoreError: the core refuses the description.
    """

    def __init__(self, description: Any, indices: Any = ()) -> None:
        self._handle = ctypes.c_void_p()
        numbers = _fence_behind(description, np.int64)
        reads = _fence_behind(indices, np.int64)
        answer = core().sparsify_create(
            numbers.address,
            numbers.array.size,
            reads.address,
            reads.array.size,
            ctypes.byref(self._handle),
        )
        numbers.array[:] = reads.array[:] = -1  # the core has copied what it needs
        _raise(answer)

    def __del__(self) -> None:
        core().sparsify_destroy(self._handle)

    def forward(
        self,
        kind: Type,
        x: Placed,
        factors: Sequence[Placed],
        y: Placed,
        bias: Placed | None = None,
        activation: int = 0,
        threads: Threads | None = None,
    ) -> None:
        """y = activation(fabric(x) + bias)."""
        weights = _pointers(factors)
        answer = core().sparsify_forward(
            self._handle,
            kind.number,
            len(x.array),
            x.address,
            x.stride,
            weights.address,
            bias.address if bias else None,
            activation,
            y.address,
            ctypes.addressof(threads.struct) if threads else None,
        )
        _raise(answer)

    def backward(
        self,
        kind: Type,
        grad: Placed,
        x: Placed,
        factors: Sequence[Placed],
        grad_x: Placed | None,
        grad_factors: Sequence[Placed | None],
        threads: Threads | None = None,
    ) -> None:
        """Gradients of fabric(x), for the gradient of its outputs."""
        weights, results = _pointers(factors), _pointers(grad_factors)
        answer = core().sparsify_backward(
            self._handle,
            kind.number,
            len(x.array),
            grad.address,
            grad.stride,
            x.address,
            x.stride,
            weights.address,
            grad_x.address if grad_x else None,
            results.address,
            ctypes.addressof(threads.struct) if threads else None,
        )
        _raise(answer)
