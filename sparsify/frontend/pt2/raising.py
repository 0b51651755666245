"""From an exported program to a module that trains: layers, ties and modes restored.

`torch.export` leaves a graph of ATen operations on bare parameters. Here the operations with a
parameter as their weight become calls of `nn.Linear`, `nn.Conv2d`, `nn.LSTM` and so on at the paths
of the parameters' owners, sharing the parameters; so all that works on layers works on programs.
The raised module computes the same bits.
"""

from __future__ import annotations

import inspect

import torch
from torch import fx, nn

from ...export.sandbox import quiet
from . import conv, fabrics, linear, recurrent
from .interface import Interface
from .layers import Match, put_layers
from .modes import follow_modes
from .module import ExportedModule, tied

__all__ = ["raised"]

MATCHERS = {
    **linear.MATCHERS,
    **conv.MATCHERS,
    **recurrent.MATCHERS,
    **fabrics.MATCHERS,
}


def raised(program: torch.export.ExportedProgram) -> ExportedModule:
    """The program as a module that trains, sharing its parameters.

    Args:
        program: not changed, but for training the module, whose parameters are its own.

    Returns:
        The module, in the mode in which the program was exported.

    Example:
        >>> program = torch.export.export(nn.Sequential(nn.Linear(4, 2)), (torch.zeros(3, 4),))
        >>> getattr(raised(program), "0")
        Linear(in_features=4, out_features=2, bias=True)
    """
    with quiet():
        root = program.module()
    graph: fx.Graph = root.graph
    interface = Interface.of(program, inspect.signature(root.forward))
    tied(root)
    training = follow_modes(root, graph)
    put_layers(root, graph, _matches(root, graph))
    module = ExportedModule(root, graph, interface)
    for part in module.modules():
        part.training = training
    return module


def _matches(root: nn.Module, graph: fx.Graph) -> list[Match]:
    found = [
        MATCHERS[node.target](root, node)
        for node in graph.nodes
        if node.op == "call_function" and node.target in MATCHERS
    ]
    return [match for match in found if match is not None]
