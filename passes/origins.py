"""What the values of a graph are made of: parameters and constants alone, or the inputs too."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import fx

__all__ = ["PARTS", "VIEWS", "Origin", "Origins"]

aten = torch.ops.aten

# The same values in another arrangement or precision.
VIEWS = {
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.expand.default,
    aten.alias.default,
    aten.detach.default,
    aten._to_copy.default,
    aten.clone.default,
}

# Some of the values, as they are.
PARTS = {
    operator.getitem,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
    aten.unsafe_split.Tensor,
}

# A new tensor that nothing has been written to yet: what will be in it cannot be told from it.
_BLANK = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


@dataclass(frozen=True)
class Origin:
    """What a value that does not depend on the model's inputs is made of.

    Args:
        parameter: path of the parameter in it, the largest where there are several; "" for none.
        size: elements of that parameter.
        direct: whether the value is that very parameter, seen through views and casts at most.
        part: which slice of that parameter it is, as "[2]"; "" for none.
        is_held: whether a parameter or a buffer of the model is in it.
        is_hidden: whether a tensor is in it that no module holds: possibly an input in disguise.
        distinct: elements that can differ: those before an expansion.
    """

    parameter: str = ""
    size: int = 0
    direct: bool = False
    part: str = ""
    is_held: bool = False
    is_hidden: bool = False
    distinct: int = 0

    def joined(self, other: Origin) -> Origin:
        """A value computed from two."""
        larger = max(self, other, key=lambda origin: (bool(origin.parameter), origin.size))
        return Origin(
            larger.parameter,
            larger.size,
            is_held=self.is_held or other.is_held,
            is_hidden=self.is_hidden or other.is_hidden,
        )


class Origins:
    """The origins of a graph's values, followed in the order of execution.

    Writes count: a constant into which an operation writes a value of the inputs, through whatever
    view of it, is a constant no longer.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[fx.Node, Origin] = {}
        self._bases: dict[fx.Node, fx.Node] = {}
        self._written: dict[fx.Node, Origin] = {}
        self._varying: set[fx.Node] = set()
        self._mixed: dict[fx.Node, Origin] = {}

    def of(self, value: object) -> Origin | None:
        """The origin of a node's value; None where it depends on the inputs, or is no node."""
        if not isinstance(value, fx.Node) or value not in self._known:
            return None
        base = self._bases.get(value, value)
        if base in self._varying:
            return None
        added = self._written.get(base)
        known = self._known[value]
        return known if added is None else replace(known.joined(added), distinct=known.distinct)

    def mixed(self, value: object) -> Origin | None:
        """The parameter that was combined with the inputs, element by element, into a value."""
        return self._mixed.get(value) if isinstance(value, fx.Node) else None

    def follow(self, node: fx.Node) -> None:
        """Take the next node of the graph into account."""
        if node.op == "get_attr":
            self._known[node] = _held(node)
            return
        if node.op != "call_function":
            return
        base = _aliased(node)
        if base is not None:
            self._bases[node] = self._bases.get(base, base)
        origin = self._made(node)
        if origin is not None:
            self._known[node] = origin
        elif _is_elementwise(node):
            parts = [self.of(n) or self._mixed.get(n) for n in node.all_input_nodes]
            found = [part for part in parts if part is not None and part.parameter]
            if found:
                largest = max(found, key=lambda part: part.size)
                self._mixed[node] = replace(largest, direct=False, part="")
        for target in _written(node):
            written = self._bases.get(target, target)
            others = [self.of(n) for n in node.all_input_nodes if n is not target]
            if any(other is None for other in others):
                self._varying.add(written)
            for other in filter(None, others):
                before = self._written.get(written)
                self._written[written] = other if before is None else before.joined(other)

    def forget(self, node: fx.Node) -> None:
        """Treat a node's value as one that depends on the inputs from here on."""
        self._known.pop(node, None)

    def _made(self, node: fx.Node) -> Origin | None:
        if _is_unpredictable(node):
            return None
        inputs = [self.of(source) for source in node.all_input_nodes]
        if any(origin is None for origin in inputs):
            return None
        known = [origin for origin in inputs if origin is not None]
        count = math.prod(node.meta["shape"]) if "shape" in node.meta else 0
        if not known or _is_literal(node):
            return Origin(distinct=count)
        first = known[0]
        if node.target in VIEWS:
            return replace(first, distinct=min(first.distinct, count))
        if node.target in PARTS:
            if "shape" not in node.meta:  # all the parts at once
                return first
            is_slice = (first.direct or bool(first.part)) and count < first.distinct
            label = first.part + _label(node) if is_slice else first.part
            return replace(first, direct=first.direct and not label, part=label, distinct=count)
        origin = Origin()
        for other in known:
            origin = origin.joined(other)
        return replace(origin, distinct=count)


def _held(node: fx.Node) -> Origin:
    count = math.prod(node.meta["shape"])
    if node.meta.get("parameter"):
        return Origin(str(node.target), count, direct=True, is_held=True, distinct=count)
    is_hidden = str(node.target).startswith("constant_")
    return Origin(is_held=not is_hidden, is_hidden=is_hidden, distinct=count)


def _label(node: fx.Node) -> str:
    """Which part of its input a node takes, as an index is written."""
    if node.target is operator.getitem:
        return f"[{node.args[1]}]"
    dim, first, last = (
        value if isinstance(value, int) else 0 for value in (*node.args[1:], 0, 0, 0)[:3]
    )
    before = ":, " * dim
    if node.target is aten.select.int:
        return f"[{before}{first}]"
    return f"[{before}{first}:{last if last < sys.maxsize else ''}]"


def _is_literal(node: fx.Node) -> bool:
    """A number or list of the model's own code, such as `torch.tensor([0.5])`."""
    return node.target in (aten.lift_fresh.default, aten.lift_fresh_copy.default)


def _is_unpredictable(node: fx.Node) -> bool:
    """Random numbers, blank memory, and operations without tensors that are not torch's own."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags:
        return True
    if node.target.namespace != "aten":
        return not node.all_input_nodes
    return node.target._opname in _BLANK


def _is_elementwise(node: fx.Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags or node.target in VIEWS or node.target in PARTS


def _aliased(node: fx.Node) -> fx.Node | None:
    """The input whose memory the result shares."""
    if node.target is operator.getitem:
        return node.all_input_nodes[0]
    for position, name in _aliases(node.target).shared:
        for value in _nodes(_argument(node, position, name)):
            return value
    return None


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """The inputs that the operation writes to."""
    for position, name in _aliases(node.target).written:
        yield from _nodes(_argument(node, position, name))


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


def _nodes(argument: Any) -> Iterable[fx.Node]:
    items = argument if isinstance(argument, (list, tuple)) else (argument,)
    return (item for item in items if isinstance(item, fx.Node))


@dataclass(frozen=True)
class _Aliases:
    """Arguments, by position and name, that share memory with a result or are written to."""

    shared: tuple[tuple[int, str], ...] = ()
    written: tuple[tuple[int, str], ...] = ()


@lru_cache(maxsize=4096)
def _aliases(target: Any) -> _Aliases:
    schema = getattr(target, "_schema", None)
    if schema is None:
        return _Aliases()
    marked = [
        (place, argument)
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None
    ]
    returned = any(result.alias_info is not None for result in schema.returns)
    return _Aliases(
        tuple((place, argument.name) for place, argument in marked if returned),
        tuple((place, a.name) for place, a in marked if a.alias_info.is_write),
    )
