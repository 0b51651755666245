"""Calls of the native core with arrays of no particular kind, to be compared with one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from tests.support import native
from tests.support.native import TYPES, Compiled, Placed, Threads, Type

RICH = Fabric(
    45,
    70,
    (
        (
            Shuffle(48, stride=6),
            Stage(2, 5, 6, 4),
            Shuffle(40, seed=3),
            GraphStage("random", 40, 80, 8, seed=1),
        ),
        (Stage(1, 75, 45, 1),),
    ),
)
"""All that there is: two branches, blocks, a graph, both shuffles, wrap and fold."""


def placed(values: Any, kind: Type) -> Placed:
    """The values where the address sanitizer would watch their end."""
    values = np.asarray(values, np.float64)
    memory = native.place(values.shape, kind.stored, "exact")
    memory.array[...] = kind.store(values)
    return memory


class Call:
    """A fabric with numbers, to be computed one way or another."""

    def __init__(self, fabric: Fabric, rows: int, kind: Type = TYPES["float32"]) -> None:
        numbers = np.random.default_rng(rows)
        self.kind, self.handle = kind, Compiled(*native.described(fabric))
        self.shapes = native.weight_shapes(native.described(fabric)[0])
        self.x = placed(numbers.standard_normal((rows, fabric.in_features)), kind)
        self.grad = placed(numbers.standard_normal((rows, fabric.out_features)), kind)
        self.factors = [placed(numbers.standard_normal(s) / 4, kind) for s in self.shapes]

    def forward(self, activation: int = 0, threads: Threads | None = None) -> native.Array:
        y = native.place(self.grad.array.shape, self.kind.stored, "guarded")
        self.handle.forward(self.kind, self.x, self.factors, y, None, activation, threads)
        return y.array

    def backward(self, threads: Threads | None = None) -> list[native.Array]:
        shapes = [self.x.array.shape, *self.shapes]
        results = [native.place(shape, self.kind.stored, "guarded") for shape in shapes]
        self.handle.backward(
            self.kind, self.grad, self.x, self.factors, results[0], results[1:], threads
        )
        return [result.array for result in results]

    def everything(self, threads: Threads | None = None) -> list[native.Array]:
        return [self.forward(threads=threads), *self.backward(threads)]


def bits(arrays: Sequence[native.Array]) -> list[bytes]:
    return [array.tobytes() for array in arrays]
