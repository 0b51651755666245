"""What is dense in an ONNX file: the products that layers can stand for, and all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...site import Site
from .constants import Constants
from .dense import Product, product
from .edges import OnnxEdges
from .file import OnnxFile
from .listed import Listed, inner, listed
from .names import Named, name_of, unique
from .shapes import shapes_of

if TYPE_CHECKING:
    import onnx

__all__ = ["Reading", "read_dense"]


@dataclass(frozen=True)
class Reading:
    """The dense operations of a file; shared by all copies of a model.

    Args:
        file: the file.
        products: what layers can stand for, by the first output of the node.
        paths: the layer of each of them.
        kept: why it must stay as it is, where it must.
        listed: sites of all other dense operations, by the first output of the node; those in the
            bodies of a node are among its own.
    """

    file: OnnxFile
    products: Mapping[str, Product]
    paths: Mapping[str, str]
    kept: Mapping[str, str]
    listed: Mapping[str, tuple[Site, ...]]

    def __deepcopy__(self, memo: dict[int, Any]) -> Reading:
        """Nothing of it changes, so that copies share it."""
        return self


def read_dense(file: OnnxFile, taken: frozenset[str]) -> Reading:
    """Find the dense operations of a file.

    Args:
        file: the file.
        taken: names that no part of a layer's path may have.

    Raises:
        ModelError: the file is damaged in a way that onnx's checker does not see.
    """
    try:
        return _read(file, taken)
    except Exception as error:  # attributes of other types, sizes that do not fit, no texts
        raise ModelError(
            f"{file.path} is damaged, or uses ONNX in a way that is not understood "
            f"({type(error).__name__}: {error})."
        ) from error


def _read(file: OnnxFile, taken: frozenset[str]) -> Reading:
    graph = file.proto.graph
    edges = OnnxEdges(graph)
    shapes = shapes_of(file.proto)
    constants = Constants(file, edges, shapes)
    functions = {(f.domain, f.name): f for f in file.proto.functions}
    products: dict[str, Product] = {}
    named: dict[tuple[object, ...], Named] = {}
    others: list[tuple[str, Listed]] = []
    for position, node in enumerate(graph.node):
        if not node.output:
            continue
        found = product(node, constants, shapes)
        if isinstance(found, Product):
            products[node.output[0]] = found
            named.setdefault(found.key, name_of(node, found.chain[-1], position))
            continue
        parts = [] if found is None else list(listed(node, constants, found, position))
        parts += inner(node, constants.shape, functions, name_of(node, "", position).path)
        others += [(node.output[0], part) for part in parts]
    paths = unique([*named.values(), *(part.named for _, part in others)], taken)
    by_key = dict(zip(named, paths, strict=False))
    sites: dict[str, tuple[Site, ...]] = {}
    for (output, part), path in zip(others, paths[len(named) :], strict=True):
        sites[output] = (*sites.get(output, ()), part.site(path))
    kept = {output: why for output, p in products.items() if (why := _tied(p, products, edges))}
    return Reading(file, products, {o: by_key[p.key] for o, p in products.items()}, kept, sites)


def _tied(found: Product, products: Mapping[str, Product], edges: OnnxEdges) -> str:
    """Why the weight of a product cannot be taken away; "" where it can."""
    for name in found.chain:
        if name in edges.outputs:
            return "its weight is an output of the model"
        for reader in edges.readers(name):
            other = products.get(reader.output[0]) if reader.output else None
            is_weight = other is not None and other.operand == name and other.x != name
            if not is_weight and not _is_on(reader, found.chain):
                return f"tied: its weight is also read by {reader.op_type} {reader.name}".rstrip()
    return ""


def _is_on(node: onnx.NodeProto, chain: tuple[str, ...]) -> bool:
    """Whether a node is one of those that a chain of values goes through."""
    return any(name in chain for name in node.output)
