"""Every dense operation of the graph, as a list of sites."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx, nn

from ..nn import Dense, dense
from ..plan import Site
from .annotate_weights import WeightUse, weight_uses
from .base import Pass, PassError, PassResult, Program

__all__ = ["FindSites", "paths_of"]


@dataclass(frozen=True)
class FindSites(Pass):
    """List the dense operations: those of layers that a fabric can stand for, and all others.

    Requires: a recorded graph went through AnnotateWeights. Ensures: every node with a `WeightUse`
    belongs to one site; a layer that the run did not use is a site too, kept as such.
    Before: addmm = aten.addmm(bias, x, t)      # meta["weight"] = WeightUse("fc1.weight", ...)
    After:  addmm = aten.addmm(bias, x, t)      # meta["site"] = "fc1"; Site("fc1", "linear", ...)
    """

    name: ClassVar[str] = "find-sites"

    def requires(self, program: Program) -> None:
        """The weight operations are marked."""
        self.need(program.annotated or not program.recorded, "the marks of annotate-weights")

    def run(self, program: Program) -> PassResult:
        """Group the weight operations by the module that owns the weight."""
        layers = {
            path: layer
            for path, module in program.module.named_modules()
            if (layer := dense(module)) is not None
        }
        paths = paths_of(program.module)
        owners = _owners(program.module)
        calls: dict[str, list[Site]] = {}
        for node in program.graph.nodes:
            for site in _sites(node, layers, owners):
                node.meta.setdefault("site", site.name)
                calls.setdefault(site.name, []).append(site)
        found = {name: _joined(several) for name, several in calls.items()}
        for path, layer in layers.items():
            if path not in found:
                found[path] = _layer_site(path, layer, calls=0)
        sites = tuple(
            replace(site, paths=paths.get(site.name, (site.name,))) for site in found.values()
        )
        return PassResult(replace(program, sites=sites, analysed=True), True, f"{len(sites)} sites")

    def ensures(self, before: Program, after: Program) -> None:
        """Every weight operation belongs to a site."""
        names = {site.name for site in after.sites}
        for node in after.graph.nodes:
            if "weight" in node.meta and node.meta.get("site") not in names:
                raise PassError(f"{self.name} left {node} without a site.")


def paths_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """First path of each module -> all of its paths."""
    first: dict[int, str] = {}
    paths: dict[str, tuple[str, ...]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        name = first.setdefault(id(module), path)
        paths[name] = (*paths.get(name, ()), path)
    return paths


def _owners(model: nn.Module) -> dict[str, list[str]]:
    """Name of each parameter -> the modules that hold it as their `weight`; several if tied."""
    first: dict[int, str] = {}
    owners: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, own_name = name.rpartition(".")
        if own_name == "weight":
            owners.setdefault(first.setdefault(id(parameter), name), []).append(owner)
    return owners


def _sites(node: fx.Node, layers: dict[str, Dense], owners: dict[str, list[str]]) -> Iterator[Site]:
    """What a node calls: one site for each weight that it uses."""
    if "sites" in node.meta:  # a frontend's graph that says it all
        yield from node.meta["sites"]
    elif node.op == "call_module":
        yield _layer_site(str(node.target), layers[str(node.target)], calls=1)
    for use in weight_uses(node):
        scope = node.meta.get("scope")
        running = scope[-1] if scope else "?"
        if running in layers and _is_own(use, running, owners):
            rows, in_rows = _rows(node, layers[running])
            site = _layer_site(running, layers[running], calls=1)
            yield replace(site, rows=rows, in_rows=in_rows)
        else:
            yield _foreign_site(use)


def _is_own(use: WeightUse, layer: str, owners: dict[str, list[str]]) -> bool:
    """Whether a layer uses its own weight, or one that it computes from its own parameters."""
    if use.direct:
        return layer in owners.get(use.parameter, ())
    return not use.part and use.parameter.startswith(f"{layer}." if layer else "")


def _layer_site(path: str, layer: Dense, calls: int) -> Site:
    return Site(
        path,
        layer.kind,
        layer.in_features,
        layer.out_features,
        layer.kernel,
        layer.groups,
        calls=calls,
    )


def _rows(node: fx.Node, layer: Dense) -> tuple[int, int | None]:
    """Positions of the output, and of the input where stride or padding make them differ."""
    rows = math.prod(node.meta["shape"]) // layer.out_features
    if not layer.kernel:
        return rows, None
    image: fx.Node = node.args[0]  # type: ignore[assignment]
    in_rows = math.prod(image.meta["shape"]) // layer.in_features
    return rows, in_rows if in_rows != rows else None


def _foreign_site(use: WeightUse) -> Site:
    """An operation on a parameter of no layer we know: listed, counted, kept."""
    name = use.parameter + use.part
    sizes = (use.inputs, use.outputs, use.kernel, use.groups, use.copies)
    site = Site(name, use.kind, *sizes, rows=1)
    why = "its weight is used outside a layer that a fabric can stand for"
    if use.part:
        why = "its weight is a slice of a larger parameter"
    elif not use.direct:
        why = "its weight is computed from parameters (a parametrization)"
    return replace(site, rows=max(1, use.flops // max(1, site.dense_flops))).kept(why)


def _joined(several: list[Site]) -> Site:
    """All calls of one site; rows become the mean over the calls."""
    first, count = several[0], len(several)
    rows = [site.rows for site in several if site.rows is not None]
    if len(rows) < count:
        return replace(first, calls=count)
    at_input = [site.in_rows or site.rows or 0 for site in several]
    in_rows = None if all(site.in_rows is None for site in several) else sum(at_input) // count
    return replace(first, calls=count, rows=sum(rows) // count, in_rows=in_rows)
