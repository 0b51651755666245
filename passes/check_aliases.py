"""Weights that somebody else reads too, or that are not plain parameters, stay dense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx, nn

from ..nn import held_to, norm_parameters
from ..plan import Site
from .annotate_weights import VIEWS
from .base import Pass, PassResult, Program

__all__ = ["CheckAliases"]


Ties = dict[int, list[tuple[str, torch.Tensor]]]


@dataclass(frozen=True)
class CheckAliases(Pass):
    """Keep every site whose weight cannot be taken away without changing something else.

    That is a weight tied to another parameter, read by other operations, computed (but by
    `weight_norm`, see `sparsify.nn.computed`), not yet initialised (lazy), or not of a floating
    type. A module at several paths, or called several times, is one site and no alias.

    Requires: sites. Ensures: a site that is kept already stays kept.
    Before: logits = aten.mm(x, t)              # t = aten.t(embed.weight), Site("head", replace)
    After:  logits = aten.mm(x, t)              # Site("head", keep, "tied to embed.weight")
    """

    name: ClassVar[str] = "check-aliases"

    def requires(self, program: Program) -> None:
        """The sites are known."""
        self.need(program.analysed, "the sites that find-sites lists")

    def run(self, program: Program) -> PassResult:
        """Check each site that is still to be replaced."""
        modules = dict(program.module.named_modules())
        ties = _ties(program.module)
        readers = _readers(program.graph) if program.recorded else {}

        def checked(site: Site) -> Site:
            if site.decision == "keep":
                return site
            reason = _unusual(modules[site.name]) or _shared(site, modules, ties, readers)
            if not reason and norm_parameters(modules[site.name]):
                return replace(site, reason="its weight_norm goes")
            return site.kept(reason) if reason else site

        sites = tuple(checked(site) for site in program.sites)
        if sites == program.sites:
            return PassResult(program, False, "no weight is shared")
        kept = sum(a.decision != b.decision for a, b in zip(sites, program.sites, strict=True))
        return PassResult(replace(program, sites=sites), True, f"{kept} sites kept")


def _unusual(module: nn.Module) -> str:
    """Why the module's weight is no plain parameter, "" where it is one."""
    if held := held_to(module):
        return held
    norm = norm_parameters(module)
    weight = module.get_parameter(norm[-1]) if norm else module._parameters.get("weight")
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "lazy and not initialised; run the model once first"
    if weight is None:
        return "its weight is no parameter"
    if not weight.is_floating_point():
        return f"its weight is of type {weight.dtype}".replace("torch.", "")
    names = (*module._parameters, *module._buffers, *module._modules)
    known = ("weight", "bias", *(name.partition(".")[0] for name in norm))
    extra = [name for name in names if name not in known]
    return f"it holds more than a weight and a bias: {extra[0]!r}" if extra else ""


def _shared(
    site: Site,
    modules: dict[str, nn.Module],
    ties: Ties,
    readers: dict[str, list[fx.Node]],
) -> str:
    module = modules[site.name]
    names = norm_parameters(module) or ("weight",)
    own = {f"{path}.{name}" if path else name for path in site.paths for name in names}
    weights = [module.get_parameter(name) for name in names]
    others = [
        name
        for weight in weights
        for name, tensor in ties[_storage(weight)]
        if name not in own and _overlap(tensor, weight)
    ]
    if others:
        return f"tied to {others[0]}"
    for name in own:
        for node in readers.get(name, ()):
            if node.meta.get("site") != site.name and not (
                len(names) > 1 and site.name in node.meta.get("scope", ())  # the norm
            ):
                return f"its weight is also read by {node.target}"
    return ""


def _storage(tensor: object) -> int:
    """What two tensors share when one writes into the other, on any device, meta included."""
    lazy = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
    if not isinstance(tensor, torch.Tensor) or isinstance(tensor, lazy):
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)


def _overlap(one: object, other: object) -> bool:
    """Whether two tensors of one storage have elements in common, or may have.

    Slices of one matrix, as the layers of an unfolded owner hold them, have none.
    """
    if one is other or not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return True
    if not (one.is_contiguous() and other.is_contiguous()):
        return True
    first, second = sorted((one, other), key=lambda tensor: tensor.storage_offset())
    ends = first.storage_offset() + first.numel()
    return first.dtype != second.dtype or second.storage_offset() < ends


def _ties(model: nn.Module) -> Ties:
    """Storage -> all names of parameters and buffers in it."""
    names: Ties = {}
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            names.setdefault(_storage(tensor), []).append((name, tensor))
    return names


def _readers(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """Parameter -> the nodes that read its values, looking through views."""

    def through_views(node: fx.Node) -> Iterator[fx.Node]:
        for user in node.users:
            if user.target in VIEWS:
                yield from through_views(user)
            elif user.op != "output":
                yield user

    readers: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and node.meta.get("parameter"):
            readers.setdefault(str(node.target), []).extend(through_views(node))
    return readers
