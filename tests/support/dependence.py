"""Weight FLOPs by experiment: run a model on other inputs and other parameters, and compare.

A product is a weight operation where one operand stays the same to the bit when the inputs change,
and changes when the parameters do. PyTorch's own counter tells what it costs. No graph is
followed, and nothing is known of modules, so it shares no idea with what it judges.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

# Operation -> where its operands are, of those that PyTorch's counter knows.
_COUNTED = {
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.addmm: (1, 2),
    aten.baddbmm: (1, 2),
    aten.convolution: (0, 1),
}


class Product(NamedTuple):
    """One product of one run."""

    operands: tuple[Tensor, ...]
    flops: int


class WeightWork(NamedTuple):
    """FLOPs of one run.

    Args:
        moving: of products of a weight and a value of the inputs.
        settled: of products of two values that the inputs do not change, as where a layer is
            called on learned positions.
    """

    moving: int
    settled: int


def weight_work(model: nn.Module, inputs: Any) -> WeightWork:
    """Weight FLOPs of a model in evaluation mode, by three runs of a copy.

    Args:
        model: whose operations do not depend on values, left as it is.
        inputs: a tuple of positional or a dict of keyword inputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        subject = copy.deepcopy(model).eval()
        first = _products(subject, inputs)
        moved = _products(subject, _others(inputs))
        with torch.no_grad():
            for parameter in subject.parameters():
                parameter.mul_(1.37).add_(0.01 * torch.rand_like(parameter))
        trained = _products(subject, inputs)
    moving = settled = 0
    for before, other, after in zip(first, moved, trained, strict=True):
        assert before.flops == other.flops == after.flops
        pairs = zip(before.operands, other.operands, strict=True)
        same = [torch.equal(a, b) for a, b in pairs]
        pairs = zip(before.operands, after.operands, strict=True)
        learned = [not torch.equal(a, b) for a, b in pairs]
        if all(same) and any(learned):
            settled += before.flops
        elif any(s and t for s, t in zip(same, learned, strict=True)):
            moving += before.flops
    return WeightWork(moving, settled)


def _others(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {name: _other(value) for name, value in inputs.items()}
    return tuple(_other(value) for value in inputs)


def _other(value: Any) -> Any:
    """Another input of the same kind: masks stay, tokens and pixels change."""
    if not isinstance(value, Tensor) or (not value.is_floating_point() and value.max() <= 1):
        return value
    if value.is_floating_point():
        return torch.rand_like(value) * value.abs().max()
    return torch.randint_like(value, 5, int(value.max()) + 1)


def _products(model: nn.Module, inputs: Any) -> list[Product]:
    watch = _Watch()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # encoder layers as one operation
    try:
        with torch.no_grad(), watch:
            model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return watch.products


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in _COUNTED:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=result)
            self._note([args[place] for place in _COUNTED[packet]], flops)
        elif "grouped_mm" in str(packet):
            self._note(args[:2], 2 * math.prod(result.shape) * args[0].shape[-1])
        elif packet is aten.mkldnn_rnn_layer:
            rows = math.prod(args[0].shape[:-1])
            for weight in args[1:3]:  # of the input and of the state, once in every step
                self._note((args[0], weight), 2 * rows * weight.numel())
        return result

    def _note(self, operands: Any, flops: int) -> None:
        self.products.append(Product(tuple(t.detach().clone() for t in operands), int(flops)))
