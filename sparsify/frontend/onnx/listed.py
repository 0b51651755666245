"""The dense operations of an ONNX file that stay as they are: quantised, recurrent, in bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...site import Site
from .constants import Constants
from .dense import Sizes, sizes_of, weight_positions
from .edges import bodies
from .names import Named, name_of

if TYPE_CHECKING:
    import onnx

__all__ = ["Listed", "inner", "listed"]

OWN_DOMAIN = "ai.sparsify"
_SEVERAL = {1: "W", 2: "R"}  # what the standard calls the weights of a recurrent cell

Lookup = Callable[[str], tuple[int, ...] | None]
Functions = Mapping[tuple[str, str], "onnx.FunctionProto"]


@dataclass(frozen=True)
class Listed:
    """A dense operation that stays."""

    named: Named
    sizes: Sizes
    reason: str

    def site(self, path: str) -> Site:
        """Its site."""
        s = self.sizes
        site = Site(path, s.kind, s.in_features, s.out_features, s.kernel, s.groups)
        return site.kept(self.reason)


def listed(
    node: onnx.NodeProto, constants: Constants, reason: str, position: int
) -> Iterator[Listed]:
    """One entry for each weight of a node of the main graph.

    Args:
        node: the node.
        constants: of the graph.
        reason: why it stays.
        position: of the node in the graph.
    """
    positions = [i for i in weight_positions(node) if i < len(node.input)]
    weights = [i for i in positions if constants.is_fixed(node.input[i])]
    for i in weights:
        named = name_of(node, node.input[i], position)
        if len(weights) > 1:
            named = Named(f"{named.path}.{_SEVERAL.get(i, i)}", named.detail)
        yield Listed(named, sizes_of(node, i, constants.shape(node.input[i]) or ()), reason)


def inner(
    node: onnx.NodeProto, lookup: Lookup, functions: Functions, path: str
) -> Iterator[Listed]:
    """The dense operations in the bodies of a node, or in the function that it calls.

    Args:
        node: the node.
        lookup: the sizes of a constant that it sees, by name; None for all other values.
        functions: of the model, by domain and name.
        path: what the node is called.
    """
    where = f"inside a body of {node.op_type} {node.name}".rstrip()
    for body in bodies(node):
        local = {tensor.name: tuple(tensor.dims) for tensor in body.initializer}
        yield from _of_nodes(body.node, local, lookup, functions, path, where)
    function = functions.get((node.domain, node.op_type))
    if function is not None and node.domain != OWN_DOMAIN:
        given = zip(function.input, node.input, strict=False)
        local = {name: shape for name, a in given if (shape := lookup(a)) is not None}
        where = f"inside the function {function.name}"
        yield from _of_nodes(function.node, local, lambda name: None, functions, path, where)


def _of_nodes(
    nodes: Iterable[onnx.NodeProto],
    local: dict[str, tuple[int, ...]],
    outer: Lookup,
    functions: Functions,
    path: str,
    where: str,
) -> Iterator[Listed]:
    """Those of nodes that see these constants, their own and outer ones."""

    def lookup(name: str) -> tuple[int, ...] | None:
        return local[name] if name in local else outer(name)

    for position, node in enumerate(nodes):
        if node.op_type == "Constant" and node.attribute:
            local[node.output[0]] = tuple(node.attribute[0].t.dims)
        for i in weight_positions(node):
            name = node.input[i] if i < len(node.input) else ""
            if (shape := lookup(name)) is not None:
                own = name_of(node, name, position)
                named = Named(f"{path}.{own.path}", own.detail)
                yield Listed(named, sizes_of(node, i, shape), where)
                break
        yield from inner(node, lookup, functions, f"{path}.{node.op_type}_{position}")
