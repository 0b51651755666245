"""Fabric layers in the place of dense ones, in a copy of the model and in the graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import fx, nn

from ..errors import ModelError
from ..nn import (
    HOOKS,
    FabricLayer,
    call_layers,
    copies_of_computed,
    drop_weight_norm,
    fold_weights,
    is_composite,
    replacement,
)
from .annotate_weights import VIEWS
from .base import Pass, PassError, PassResult, Program

__all__ = ["ReplaceDense"]


@dataclass(frozen=True)
class ReplaceDense(Pass):
    """Copy the model with a fabric layer at every path of each replaced layer.

    The copy is made by `copy.deepcopy` with each dense layer already answered by its fabric layer:
    classes, methods, hooks, ties and references outside the module tree come along, a layer at two
    paths stays one layer, and the dense weights are never copied. A composite owner (attention,
    LSTM, ...) is unfolded in the copy only where something in it is replaced.

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
        module = _copy(program, pairs)
        call_layers(module)
        fold_weights(module)
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
        if _class(after.module) is not _class(before.module) and not root_replaced:
            raise PassError(f"{self.name} changed the class of the model.")


def _class(model: nn.Module) -> type:
    """The class of a model; torch makes one for each graph module, whose parent counts."""
    cls = type(model)
    return cls.__mro__[1] if isinstance(model, fx.GraphModule) else cls


def _copy(program: Program, pairs: list[tuple[nn.Module, FabricLayer]]) -> nn.Module:
    """A copy of the model with the second of each pair in the place of the first."""
    model = program.module
    memo: dict[int, Any] = {id(old): new for old, new in pairs}
    for old, new in pairs:
        if new.bias is not None:
            # Two layers with one bias share it in the copy too.
            new.bias = memo.setdefault(id(old.bias), new.bias)
    memo |= copies_of_computed(model)
    try:
        for twin, owner in _untouched(program, {id(old) for old, _ in pairs}):
            memo[id(twin)] = copy.deepcopy(owner, memo)
        copied: nn.Module = copy.deepcopy(model, memo)
        for old, new in pairs:
            for name in HOOKS:
                # Hooks that are methods of the model become methods of the copy.
                setattr(new, name, copy.deepcopy(getattr(old, name), memo))
            drop_weight_norm(new._forward_pre_hooks)
    except Exception as error:
        raise ModelError(
            f"The model cannot be copied by copy.deepcopy ({type(error).__name__}: {error})."
        ) from error
    return copied


def _untouched(program: Program, replaced: set[int]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Unfolded composites in which nothing is replaced, each with the user's own owner."""
    if program.folded is None:
        return
    twins = dict(program.module.named_modules(remove_duplicate=False))
    for path, owner in program.folded.named_modules():
        if is_composite(owner) and not any(id(part) in replaced for part in twins[path].modules()):
            yield twins[path], owner


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
        # What is left of a weight's own way: its parameter, views, the norm that computed it.
        is_norm = node.op == "call_function" and not names.isdisjoint(node.meta.get("scope", ()))
        if not node.users and (node.op == "get_attr" or node.target in VIEWS or is_norm):
            new.erase_node(node)
    return new
