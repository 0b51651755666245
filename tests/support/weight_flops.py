"""Weight FLOPs of a model, counted by watching one real run: a second opinion on plans.

Shares no code with the project: no graph, no modules, no names of layers. It runs the model on
real tensors, follows which storage holds values that depend on parameters alone, and adds up what
every product, convolution and recurrence with such an operand costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CONSTANT, WEIGHT, SIGNAL = range(3)  # what a value depends on at most: nothing, parameters, inputs
Cost = Callable[[Tensor], int]


def weight_flops(model: nn.Module, inputs: Any) -> Counter[str]:
    """FLOPs of one run in evaluation mode, by the name of the parameter that they are spent on.

    A multiply-add counts as two. Embeddings are look-ups, and count nothing; attention has no
    parameter in it.

    Args:
        model: runs for real; its mode returns.
        inputs: a tuple of positional or a dict of keyword inputs.
    """
    modes = [(part, part.training) for part in model.modules()]
    watch = _Watch(model, inputs)
    model.eval()
    try:
        # With gradients on: without, PyTorch's encoder layers run as one fused operation.
        with torch.enable_grad(), torch.random.fork_rng(devices=[]), watch:
            model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    finally:
        for part, training in modes:
            part.training = training
    return watch.flops


class _Watch(TorchDispatchMode):
    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self._alive: list[Tensor] = []  # so that no address is given away twice
        self._kinds: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        for tensor in _tensors(inputs):
            self._mark(tensor, SIGNAL, "")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        parts = _products(func.name().partition(".")[0], args)
        names = [self._weight(operands) for operands, _ in parts]
        known = [self._known(tensor) for tensor in _tensors((args, kwargs))]
        result = func(*args, **(kwargs or {}))
        for name, (_, flops) in zip(names, parts, strict=True):
            if name:
                self.flops[name] += flops(result)
        kind = max((kind for kind, _ in known), default=CONSTANT)
        source = next((name for _, name in known if name), "")
        for tensor in _tensors(result):
            self._mark(tensor, kind, source)
        return result

    def _weight(self, operands: tuple[Tensor, Tensor]) -> str:
        """The parameter behind one of two operands, "" where both are signals or constants."""
        known = [self._known(tensor) for tensor in reversed(operands)]
        return next((name for kind, name in known if kind == WEIGHT), "")

    def _known(self, tensor: Tensor) -> tuple[int, str]:
        """What a tensor depends on, and the first parameter in it."""
        if id(tensor) in self._parameters:
            return WEIGHT, self._parameters[id(tensor)]
        place = _place(tensor)
        return self._kinds.get(place, CONSTANT), self._names.get(place, "")

    def _mark(self, tensor: Tensor, kind: int, name: str) -> None:
        self._alive.append(tensor)
        place = _place(tensor)
        self._kinds[place] = max(kind, self._kinds.get(place, CONSTANT))
        self._names[place] = self._names.get(place) or name


def _products(op: str, args: tuple[Any, ...]) -> list[tuple[tuple[Tensor, Tensor], Cost]]:
    """The products that an operation is made of: two operands, and FLOPs by its result."""
    if op in _MATRICES:
        left, right = (args[position] for position in _MATRICES[op])
        return [((left, right), lambda result: 2 * result.numel() * left.shape[-1])]
    if op == "aten::convolution":
        image, taps, is_transposed = args[0], args[1], args[6]
        return [((image, taps), lambda result: _conv(image if is_transposed else result, taps))]
    if op == "aten::mkldnn_rnn_layer":
        # Each step multiplies the input and the hidden state, by a weight each.
        rows = math.prod(args[0].shape[:-1])
        return [((args[0], w), partial(_whole, 2 * rows * w.numel())) for w in args[1:3]]
    return []


# Operation -> where its two operands are.
_MATRICES = {
    "aten::mm": (0, 1),
    "aten::bmm": (0, 1),
    "aten::addmm": (1, 2),
    "aten::baddbmm": (1, 2),
    "aten::_grouped_mm": (0, 1),
    "transformers::grouped_mm_fallback": (0, 1),
}


def _whole(flops: int, result: Tensor) -> int:
    """Whatever the result."""
    return flops


def _conv(positions: Tensor, taps: Tensor) -> int:
    """FLOPs of a convolution: each position meets each tap once."""
    rows = positions.shape[0] * math.prod(positions.shape[2:])
    return 2 * rows * taps.numel()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    """Where the values lie: views share it."""
    return int(tensor.untyped_storage()._cdata)
