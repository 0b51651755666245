"""Training and evaluation of an exported graph, which torch leaves as they were at its export.

The flags that operations carry (dropout, batch norm, attention) become reads of the `training`
attribute of the module that ran them, so that `train()`, `eval()` and freezing a part work, and
nothing has to be compiled again.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from .layers import running

__all__ = ["count_batch", "follow_modes"]

aten = torch.ops.aten

_FLAGS: dict[Any, int] = {
    aten.dropout.default: 2,
    aten.dropout_.default: 2,
    aten.feature_dropout.default: 2,
    aten.feature_dropout_.default: 2,
    aten.alpha_dropout.default: 2,
    aten.alpha_dropout_.default: 2,
    aten.feature_alpha_dropout.default: 2,
    aten.feature_alpha_dropout_.default: 2,
    aten.native_dropout.default: 2,
    aten.rrelu.default: 3,
    aten.rrelu_.default: 3,
    aten.batch_norm.default: 5,
    aten.lstm.input: 6,
    aten.gru.input: 6,
    aten.rnn_tanh.input: 6,
    aten.rnn_relu.input: 6,
}
"""Operation -> position of its training flag."""
_STATISTICS = slice(3, 5)  # of batch_norm: running mean and variance
_ATTENTION = aten.scaled_dot_product_attention.default
_ATTENTION_DROPOUT = 4


def count_batch(counter: Tensor, training: bool) -> None:
    """Count a batch of a batch norm, as its module does: only in training.

    Args:
        counter: `num_batches_tracked`.
        training: whether the module trains.
    """
    if training:
        counter.add_(1)


def follow_modes(root: nn.Module, graph: fx.Graph) -> bool:
    """Let the operations of a graph read the mode of the module that they belong to.

    Args:
        root: the modules.
        graph: changed in place.

    Returns:
        Whether the program was exported in training mode, as far as its flags tell.
    """
    modes = _Modes(root, graph)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _FLAGS:
            modes.follow(node, _FLAGS[node.target])
        elif node.target is _ATTENTION:
            modes.follow_attention(node)
        elif node.target is aten.add_.Tensor and _counts(root, node):
            modes.follow_counter(node)
    return modes.training


class _Modes:
    """The flags found so far, and the nodes that read modes."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.graph = graph
        self.training = False
        self._paths = {path for path, _ in root.named_modules()}
        self._nodes: dict[str, fx.Node] = {}
        self._start = next(iter(graph.nodes))

    def follow(self, node: fx.Node, position: int) -> None:
        """Replace a flag among the arguments."""
        if len(node.args) <= position or not isinstance(node.args[position], bool):
            return
        if node.target is aten.batch_norm.default and None in node.args[_STATISTICS]:
            return  # without running statistics it always takes those of the batch
        self.training |= bool(node.args[position])
        node.update_arg(position, self._mode(node))

    def follow_attention(self, node: fx.Node) -> None:
        """Drop attention out in training only."""
        named = "dropout_p" in node.kwargs
        if not named and len(node.args) <= _ATTENTION_DROPOUT:
            return
        share = node.kwargs["dropout_p"] if named else node.args[_ATTENTION_DROPOUT]
        if not isinstance(share, float) or not share:
            return
        self.training = True
        mode = self._mode(node)
        with self.graph.inserting_before(node):
            now = self.graph.call_function(operator.mul, (share, mode))
        if named:
            node.update_kwarg("dropout_p", now)
        else:
            node.update_arg(_ATTENTION_DROPOUT, now)

    def follow_counter(self, node: fx.Node) -> None:
        """Count batches in training only."""
        self.training = True
        with self.graph.inserting_before(node):
            self.graph.call_function(count_batch, (node.args[0], self._mode(node)))
        self.graph.erase_node(node)

    def _mode(self, node: fx.Node) -> fx.Node:
        """What reads the mode of the innermost module that the program still has."""
        path = running(node)
        while path not in self._paths:
            path = path.rpartition(".")[0]
        if path not in self._nodes:
            target = f"{path}.training" if path else "training"
            with self.graph.inserting_before(self._start):
                self._nodes[path] = self.graph.create_node("get_attr", target)
        return self._nodes[path]


def _counts(root: nn.Module, node: fx.Node) -> bool:
    """Whether a node is the counter of a batch norm, whose result nobody reads."""
    counter = node.args[0]
    return (
        isinstance(counter, fx.Node)
        and counter.op == "get_attr"
        and str(counter.target).endswith("num_batches_tracked")
        and tuple(node.args[1:]) == (1,)
        and not node.users
    )
