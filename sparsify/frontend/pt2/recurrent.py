"""Recurrent operators in an exported graph, as the modules that they come from."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn

from .layers import Match, parameter

__all__ = ["MATCHERS"]

aten = torch.ops.aten

_ARGUMENTS = ("bias", "num_layers", "dropout", "train", "bidirectional", "batch_first")


def _matcher(cls: Any, gates: int, **options: Any) -> Callable[[nn.Module, fx.Node], Match | None]:
    """A matcher for the operator of a class of modules."""

    def match(root: nn.Module, node: fx.Node) -> Match | None:
        x, state, weights, *rest = node.args
        flags = dict(zip(_ARGUMENTS, rest, strict=True))
        del flags["train"]  # a mode of the module, not an option
        if flags["num_layers"] == 1:
            flags["dropout"] = 0.0  # it acts between layers
        found = [parameter(root, weight) for weight in weights]  # type: ignore[union-attr]
        operands = [operand for operand in found if operand is not None]
        if len(operands) < len(found) or any(user.target is not getitem for user in node.users):
            return None
        sizes, projected = _sizes([operand.tensor for operand in operands], gates)
        more = {**flags, **options, **({"proj_size": projected} if projected else {})}
        layer: nn.RNNBase = cls(*sizes, device="meta", **more)
        names = [name for group in layer._all_weights for name in group]
        if len(names) != len(found):
            return None
        takes = {name: operand.name for name, operand in zip(names, operands, strict=True)}
        states = tuple(state) if isinstance(state, (list, tuple)) else state
        form = (cls.__name__.lower(), sizes, *sorted(more.items()))
        output = _lstm_output if cls is nn.LSTM else _output
        return Match(node, takes, form, lambda: layer, (x, states), output, owned=True)

    return match


def _sizes(weights: list[Tensor], gates: int) -> tuple[tuple[int, int], int]:
    """Inputs and hidden features, and projected ones or 0, read off the shapes of the weights."""
    rows, inputs = weights[0].shape
    hidden, recurrent = rows // gates, weights[1].shape[1]
    return (inputs, hidden), recurrent if recurrent != hidden else 0


def _output(call: fx.Node, index: int) -> fx.Node:
    """An output of the operator among those of the module: y, and the state."""
    return call.graph.call_function(getitem, (call, index))


def _lstm_output(call: fx.Node, index: int) -> fx.Node:
    """The same where the state is a pair."""
    if index == 0:
        return _output(call, 0)
    return _output(_output(call, 1), index - 1)


MATCHERS: dict[Any, Callable[[nn.Module, fx.Node], Match | None]] = {
    aten.lstm.input: _matcher(nn.LSTM, 4),
    aten.gru.input: _matcher(nn.GRU, 3),
    aten.rnn_tanh.input: _matcher(nn.RNN, 1, nonlinearity="tanh"),
    aten.rnn_relu.input: _matcher(nn.RNN, 1, nonlinearity="relu"),
}
"""Operation -> what finds the module in it."""
