"""Without inputs: the layers of the module tree, in the order in which they are defined."""

from __future__ import annotations

from torch import fx, nn

from ..nn import dense

__all__ = ["walk"]


def walk(model: nn.Module) -> fx.Graph:
    """One `call_module` node per dense layer, each fed by the one before.

    Shapes, calls and the real order are not known; Linear and Conv layers know their sizes, and
    that is enough for a budget of parameters.

    Args:
        model: any module; nothing of it is run.

    Returns:
        The graph.

    Example:
        >>> [node.target for node in walk(nn.Sequential(nn.Linear(2, 2))).nodes][1:-1]
        ['0']
    """
    graph = fx.Graph()
    last = graph.placeholder("input")
    for path, module in model.named_modules():
        if dense(module) is not None:
            last = graph.create_node("call_module", path, (last,))
    graph.output(last)
    return graph
