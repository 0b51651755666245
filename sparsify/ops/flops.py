"""FLOP counts of the operators, for `torch.utils.flop_counter`.

A multiply-add counts as two, for each weight that there is: the zeros that a kernel may multiply
along with a graph stage do not count, nor does a bias, as everywhere in torch. The backward counts
its products once: what a kernel recomputes to save memory is not work that the model asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from ..fabric import Fabric, Weighted
from .window import Window

__all__: list[str] = []

Shape = Sequence[int]


def _costs(x: Shape, text: str, window: Sequence[Any]) -> Iterator[list[int]]:
    """Yield the FLOPs of each stage's product, branch by branch."""
    fabric = Fabric.from_json(text)
    if not window:
        rows = math.prod(x[:-1])
        for branch in fabric.branches:
            yield [2 * rows * step.parameters for step in branch if isinstance(step, Weighted)]
        return
    geometry = Window.of(*window)
    before, after = x[2:], geometry.outputs(x[2:], fabric.kernel)
    for branch in fabric.branches:
        positions = before if fabric.kernel or geometry.transposed else after
        costs = []
        for step in branch:
            if isinstance(step, Weighted):
                # Taps meet in outputs; those of a transposed convolution start from inputs.
                counted = after if step.kernel and not geometry.transposed else positions
                costs.append(2 * x[0] * math.prod(counted) * step.parameters)
                positions = after if step.kernel else positions
        yield costs


def _linear_flops(
    x: Shape, factors: Sequence[Shape], text: str, bias: Shape | None = None, **_: Any
) -> int:
    return sum(map(sum, _costs(x, text, ())))


def _conv_flops(x: Shape, factors: Sequence[Shape], text: str, *window: Shape, **_: Any) -> int:
    return sum(map(sum, _costs(x, text, window)))


def _backward_flops(
    grad: Shape, x: Shape, factors: Sequence[Shape], text: str, *rest: Any, **_: Any
) -> int:
    """Count one product per factor that needs a gradient, one per stage that passes one on."""
    *window, (need_x, *needs) = rest
    total = 0
    for costs in _costs(x, text, window):
        own, needs = needs[: len(costs)], needs[len(costs) :]
        for place, (cost, need) in enumerate(zip(costs, own, strict=True)):
            total += cost * (need + (need_x or any(own[:place])))
    return total


for _name, _formula in (("fabric", _linear_flops), ("fabric_conv", _conv_flops)):
    register_flop_formula(getattr(torch.ops.sparsify, _name))(_formula)
    register_flop_formula(getattr(torch.ops.sparsify, f"{_name}_backward"))(_backward_flops)
