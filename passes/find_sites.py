"""Every dense operation of the graph, as a list of sites."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx, nn

from ..nn import Dense, dense
from ..plan import Site
from .annotate_weights import WeightUse
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
        found: dict[str, Site] = {}
        for node in program.graph.nodes:
            site = _site(node, layers, owners)
            if site is not None:
                node.meta["site"] = site.name
                found[site.name] = _merge(found.get(site.name), site)
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


def _site(node: fx.Node, layers: dict[str, Dense], owners: dict[str, list[str]]) -> Site | None:
    if node.op == "call_module":
        return _layer_site(str(node.target), layers[str(node.target)], calls=1)
    use = node.meta.get("weight")
    if use is None:
        return None
    running = node.meta["scope"][-1]
    if use.direct and running in layers and running in owners.get(use.parameter, ()):
        rows, in_rows = _rows(node, layers[running])
        site = _layer_site(running, layers[running], calls=1)
        return replace(site, rows=rows, in_rows=in_rows)
    return _foreign_site(node, use)


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


def _foreign_site(node: fx.Node, use: WeightUse) -> Site:
    """An operation on a parameter of no layer we know: listed, counted, kept."""
    operand = node.args[1 if use.kind != "matmul" or use.activation == 0 else 0]
    if use.kind == "matmul" and str(node.target).startswith(("aten.addmm", "aten.baddbmm")):
        operand = node.args[3 - use.activation]
    shape: tuple[int, ...] = tuple(operand.meta["shape"])  # type: ignore[union-attr]
    inputs, outputs = (shape[-2], shape[-1]) if use.kind == "matmul" else (shape[1], shape[0])
    if use.kind == "conv_transpose":
        inputs, outputs = shape[0], shape[1]
    kernel = shape[2:] if use.kind != "matmul" else ()
    site = Site(use.parameter, use.kind, inputs, outputs, kernel)
    rows = max(1, use.flops // (2 * max(1, site.dense_parameters)))
    why = {
        "matmul": "its weight is used outside a layer that a fabric can stand for",
        "conv": "its weight is used outside a layer that a fabric can stand for",
        "conv_transpose": "transposed convolution",
    }[use.kind]
    if not use.direct:
        why = "its weight is computed from parameters (a parametrization)"
    return replace(site, rows=rows).kept(why)


def _merge(known: Site | None, site: Site) -> Site:
    """One more call of a site; rows become the mean over the calls."""
    if known is None:
        return site
    calls = known.calls + 1

    def mean(before: int | None, now: int | None) -> int | None:
        return ((before or 0) * known.calls + (now or 0)) // calls or None

    rows = mean(known.rows, site.rows)
    if known.in_rows is None and site.in_rows is None:
        return replace(known, calls=calls, rows=rows)
    in_rows = mean(known.in_rows or known.rows, site.in_rows or site.rows)
    return replace(known, calls=calls, rows=rows, in_rows=in_rows)
