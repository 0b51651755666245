"""Fabric layers in the place of dense ones, in a copy of the model and in the graph."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, fx, nn

from ..errors import ModelError
from ..nn import HOOKS, FabricLayer, call_layers, replacement
from .annotate_weights import VIEWS
from .base import Pass, PassError, PassResult, Program

__all__ = ["ReplaceDense"]


@dataclass(frozen=True)
class ReplaceDense(Pass):
    """Copy the model with a fabric layer at every path of each replaced layer.

    The copy is made by `copy.deepcopy` with each dense layer already answered by its fabric layer:
    classes, methods, hooks, ties and references outside the module tree come along, a layer at two
    paths stays one layer, and the dense weights are never copied.

    Requires: a plan. Ensures: none of the planned layers is dense; the model is of its own class.
    Before: addmm = aten.addmm(bias, x, t)      # fc1: Linear(512 -> 128)
    After:  fc1 = self.fc1(x)                   # fc1: FabricLinear(monarch(blocks=8) 512 -> 128)
    """

    name: ClassVar[str] = "replace-dense"

    def requires(self, program: Program) -> None:
        """There is a plan."""
        self.need(program.plan is not None, "a plan")

    def run(self, program: Program) -> PassResult:
        """Swap the layers in a copy, and the nodes in the graph."""
        sites = program.plan.replaced if program.plan is not None else ()
        modules = dict(program.module.named_modules())
        pairs = [
            (modules[s.name], replacement(modules[s.name], s.fabric)) for s in sites if s.fabric
        ]
        module = _copy(program.module, pairs)
        call_layers(module)
        graph = _with_calls(program.graph, {site.name for site in sites})
        program = replace(program, module=module, graph=graph)
        return PassResult(program, True, f"{len(sites)} layers replaced")

    def ensures(self, before: Program, after: Program) -> None:
        """Every planned layer is a fabric now, and the class of the model is the user's."""
        modules = dict(after.module.named_modules(remove_duplicate=False))
        for site in after.plan.replaced if after.plan is not None else ():
            for path in site.paths or (site.name,):
                layer = modules.get(path)
                if not isinstance(layer, FabricLayer) or layer.fabric != site.fabric:
                    raise PassError(f"{self.name} left {path or 'the model'} as it was.")
        root_replaced = isinstance(after.module, FabricLayer)
        if type(after.module) is not type(before.module) and not root_replaced:
            raise PassError(f"{self.name} changed the class of the model.")


def _copy(model: nn.Module, pairs: list[tuple[nn.Module, FabricLayer]]) -> nn.Module:
    """A copy of the model with the second of each pair in the place of the first."""
    memo: dict[int, Any] = {id(old): new for old, new in pairs}
    for old, new in pairs:
        if new.bias is not None:
            # Two layers with one bias share it in the copy too.
            new.bias = memo.setdefault(id(old.bias), new.bias)
    for part in model.modules():
        # Weights that an old weight_norm or pruning hook computes: deepcopy refuses them.
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        copied: nn.Module = copy.deepcopy(model, memo)
        for old, new in pairs:
            for name in HOOKS:
                # Hooks that are methods of the model become methods of the copy.
                setattr(new, name, copy.deepcopy(getattr(old, name), memo))
    except Exception as error:
        raise ModelError(
            f"The model cannot be copied by copy.deepcopy ({type(error).__name__}: {error})."
        ) from error
    return copied


def _with_calls(graph: fx.Graph, names: set[str]) -> fx.Graph:
    """The graph with the weight operations of these sites as calls of their modules."""
    new = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        site, use = node.meta.get("site"), node.meta.get("weight")
        if site in names and use is not None:
            activation = copied[node.args[use.activation]]
            copied[node] = new.call_module(site, (activation,))
            copied[node].meta = {key: node.meta[key] for key in ("shape", "scope", "site")}
        else:
            copied[node] = new.node_copy(node, copied.__getitem__)
    for node in reversed(new.nodes):
        if not node.users and (node.op == "get_attr" or node.target in VIEWS):
            new.erase_node(node)
    return new
