"""Layers that are better left dense unless the user asks for them by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx

from ..plan import Site
from .base import Pass, PassResult, Program

__all__ = ["KeepDefaults"]

aten = torch.ops.aten

# Joining two signals: behind it, a layer's output is one voice among several.
_JOINS = {aten.add.Tensor, aten.add_.Tensor, aten.cat.default, aten.mul.Tensor, aten.sub.Tensor}


@dataclass(frozen=True)
class KeepDefaults(Pass):
    """Keep final heads, tiny and depthwise layers, and layers that the run did not use.

    A final head is a layer behind others whose output reaches the model's output without joining
    another signal. A fabric over fewer than `smallest` channels saves nothing and loses rank.

    Args:
        smallest: least number of inputs and of outputs (per group) of a layer that is replaced.
        asked: names of sites that the user asked for; these are not kept here.

    Requires: sites. Ensures: nothing but decisions changes.
    Before: logits = aten.addmm(bias, x, t)     # Site("classifier", replace)
    After:  logits = aten.addmm(bias, x, t)     # Site("classifier", keep, "final head")
    """

    name: ClassVar[str] = "keep-defaults"
    smallest: int = 32
    asked: frozenset[str] = frozenset()

    def requires(self, program: Program) -> None:
        """The sites are known."""
        self.need(program.analysed, "the sites that find-sites lists")

    def run(self, program: Program) -> PassResult:
        """Decide per site; the first reason that applies is the one shown."""
        heads = _heads(program)
        sites = []
        for site in program.sites:
            reason = "" if site.name in self.asked else self._reason(site, heads)
            sites.append(site.kept(reason) if reason and site.decision == "replace" else site)
        if tuple(sites) == program.sites:
            return PassResult(program, False, "every site may be replaced")
        return PassResult(replace(program, sites=tuple(sites)), True)

    def _reason(self, site: Site, heads: frozenset[str]) -> str:
        inputs, outputs = site.in_features // site.groups, site.out_features // site.groups
        if site.calls == 0:
            return "not used in the recorded run"
        if site.groups > 1 and inputs == 1:
            return "depthwise"
        if site.name in heads:
            return "final head"
        if min(inputs, outputs) < self.smallest:
            what = "inputs" if inputs <= outputs else "outputs"
            return f"only {min(inputs, outputs)} {what}" + (" per group" if site.groups > 1 else "")
        return ""


def _heads(program: Program) -> frozenset[str]:
    if program.recorded:
        return _recorded_heads(program.graph)
    # Without a graph the order of definition is all there is: the last of several layers.
    names = [site.name for site in program.sites]
    return frozenset(names[-1:] if len(names) > 1 else ())


def _recorded_heads(graph: fx.Graph) -> frozenset[str]:
    behind = _nodes_behind_a_site(graph)
    signals = _signals(graph)
    heads: set[str] = set()
    seen: set[fx.Node] = set()
    queue = [n for node in graph.nodes if node.op == "output" for n in node.all_input_nodes]
    while queue:
        node = queue.pop()
        if node in seen or node.op not in ("call_function", "call_module"):
            continue
        seen.add(node)
        if "site" in node.meta:
            if any(source in behind for source in node.all_input_nodes):
                heads.add(node.meta["site"])
        elif node.target not in _JOINS or len(signals.intersection(node.all_input_nodes)) < 2:
            queue.extend(node.all_input_nodes)
    return frozenset(heads)


def _signals(graph: fx.Graph) -> set[fx.Node]:
    """The values that depend on the inputs: not those made of parameters and constants alone."""
    signals: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or signals.intersection(node.all_input_nodes):
            signals.add(node)
    return signals


def _nodes_behind_a_site(graph: fx.Graph) -> set[fx.Node]:
    behind: set[fx.Node] = set()
    for node in graph.nodes:
        if "site" in node.meta or behind.intersection(node.all_input_nodes):
            behind.add(node)
    return behind
