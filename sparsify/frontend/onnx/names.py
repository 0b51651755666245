"""Names for the layers of an ONNX file: the paths of the modules that they were, where it tells."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["Named", "name_of", "unique"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_ANONYMOUS = re.compile(r"onnx::.*|val_\d+|const_?\d*|node_.*|n\d+_.*|_*\d*")


@dataclass(frozen=True)
class Named:
    """What a layer could be called.

    Args:
        path: the path that it seems to have had.
        detail: what tells it from others of this path.
    """

    path: str
    detail: str


def name_of(node: onnx.NodeProto, weight: str, position: int) -> Named:
    """What the layer of a node could be called.

    That is, in this order: the name of its weight without ".weight"; the module that torch's
    exporter notes; the scope in the name of the node, as in "/encoder/fc/MatMul"; any name that the
    node or the weight has; operator and position.

    Args:
        node: the node.
        weight: the name of the initializer that its weight comes from.
        position: of the node in the graph.

    Example:
        >>> from onnx import helper
        >>> name_of(helper.make_node("MatMul", ["x", "w"], ["y"], "/encoder/fc/MatMul"), "w", 0)
        Named(path='encoder.fc', detail='MatMul')
    """
    if weight.endswith(".weight") and len(weight) > len(".weight"):
        return Named(_dotted(weight.removesuffix(".weight")), node.op_type)
    for entry in node.metadata_props:
        if entry.key == _SCOPES and (scopes := _scopes(entry.value)):
            path, detail = scopes[-2], scopes[-1]
            return Named(_dotted(path or detail), detail)
    scope, slash, leaf = node.name.rpartition("/")
    if slash and _dotted(scope):
        return Named(_dotted(scope), leaf)
    for name in (leaf, weight):
        if not _ANONYMOUS.fullmatch(name) and _dotted(name):
            return Named(_dotted(name), node.op_type)
    return Named(f"{node.op_type}_{position}", node.op_type)


def unique(named: Sequence[Named], taken: Collection[str] = ()) -> list[str]:
    """Paths that no two have, that lie in none of the others, and whose parts are free.

    Args:
        named: what each could be called.
        taken: names that no part of a path may have.

    Example:
        >>> unique([Named("a", "in"), Named("a.b", "out"), Named("a.b", "MatMul")], ["b"])
        ['a.in', 'a.b_.out', 'a.b_.MatMul']
    """
    wanted = [".".join(_free(part, taken) for part in entry.path.split(".")) for entry in named]
    counts = Counter(wanted)
    inner = {parent for path in wanted for parent in _parents(path)}
    paths: dict[str, None] = {}
    for path, entry in zip(wanted, named, strict=True):
        if counts[path] > 1 or path in inner:
            path = f"{path}.{_free(_dotted(entry.detail), taken)}"
        candidate, number = path, 1
        while candidate in paths or candidate in inner:
            number += 1
            candidate = f"{path}_{number}"
        paths[candidate] = None
        inner.update(_parents(candidate))
    return list(paths)


def _free(part: str, taken: Collection[str]) -> str:
    return f"{part}_" if part in taken else part


def _parents(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _dotted(name: str) -> str:
    parts = re.split(r"[/.]+", name.replace(":", "_"))
    return ".".join(part for part in parts if part)


def _scopes(text: str) -> list[str]:
    """The paths of the modules around a node, and the node's own name; [] where not readable."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    is_list = isinstance(scopes, list) and len(scopes) > 1
    return scopes if is_list and all(isinstance(scope, str) for scope in scopes) else []
