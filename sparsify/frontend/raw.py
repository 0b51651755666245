"""Parameters that no layer owns, used as the weight of a product by the model's own code."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import fx, nn

from ..nn import dense
from ..passes import AnnotateWeights, Program
from ..passes.annotate_weights import VIEWS

__all__ = ["is_called", "raw_weights"]

Views = tuple[fx.Node, ...]


def raw_weights(program: Program) -> dict[str, bool]:
    """The matrices that a module could stand for, as `sparsify.nn.FabricWeight` does.

    Every use of such a parameter is a product of an input with the whole of it, over the same axis.

    Args:
        program: recorded.

    Returns:
        Name of the parameter -> whether it is (in, out) instead of (out, in).
    """
    graph = AnnotateWeights().run(program).program.graph
    layers = {path for path, module in program.module.named_modules() if dense(module) is not None}
    shared = _tied(program.module)
    found: dict[str, bool] = {}
    for node in graph.nodes:
        name = str(node.target)
        if node.op != "get_attr" or not node.meta.get("parameter") or name in shared:
            continue
        if len(node.meta["shape"]) == 2 and name.rpartition(".")[0] not in layers:
            axes = {_contracted(node, user, views) for user, views in _uses(node, ())}
            if len(axes) == 1 and None not in axes:
                found[name] = axes == {0}
    return found


def is_called(graph: fx.Graph, name: str) -> bool:
    """Whether all use of a parameter is in calls of the layer that has taken its place.

    Args:
        graph: recorded with the layer.
        name: of the parameter, and now of the layer.
    """
    found = [n for n in graph.nodes if n.op == "get_attr" and n.target == f"{name}.weight"]
    users = [user for node in found for user, _ in _uses(node, ())]
    return bool(users) and all(user.meta["scope"][-1:] == (name,) for user in users)


def _tied(model: nn.Module) -> set[str]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter.untyped_storage()._cdata, []).append(name)
    return {name for tied in names.values() if len(tied) > 1 for name in tied}


def _uses(node: fx.Node, views: tuple[fx.Node, ...]) -> Iterator[tuple[fx.Node, Views]]:
    """What reads a value, looking through views; each with the views on the way."""
    for user in node.users:
        if user.target in VIEWS:
            yield from _uses(user, (*views, user))
        else:
            yield user, views


def _contracted(parameter: fx.Node, user: fx.Node, views: Views) -> int | None:
    """The axis of the parameter that a product sums over, None where it is no such product."""
    use = user.meta.get("weight")
    operand = views[-1] if views else parameter
    if use is None or use.kind != "matmul" or user.args.index(operand) < use.activation:
        return None
    # The views, replayed on numbers that say which element is where.
    numbers = torch.arange(math.prod(parameter.meta["shape"])).reshape(parameter.meta["shape"])
    operands = numbers
    for view in views:
        operands = view.target(operands, *view.args[1:])  # type: ignore[operator]
    operands = operands.reshape(-1, *operands.shape[-2:])
    if not bool((operands == operands[0]).all()):
        return None
    rows = 1 if user.target is torch.ops.aten.linear.default else 0
    if torch.equal(operands[0], numbers):
        return rows
    return 1 - rows if torch.equal(operands[0], numbers.T) else None
