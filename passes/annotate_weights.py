"""Which nodes are weight operations, on which parameter, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx, nn

from .base import Pass, PassResult, Program
from .dense_ops import Reading, is_dense, readings
from .origins import VIEWS, Origin, Origins

__all__ = ["VIEWS", "AnnotateWeights", "Unseen", "WeightUse", "unseen_share", "weight_uses"]


@dataclass(frozen=True)
class WeightUse:
    """How a node uses a parameter as the weight of a dense operation; `node.meta["weight"]`.

    Args:
        parameter: path of the parameter, or of the largest of several that the weight is made of.
        direct: whether the operand is that very parameter, seen through views and casts at most.
        activation: position of the other operand among the node's arguments.
        flops: of this call, a multiply-add counted as two.
        kind: what sort of product it is, see `Reading`.
        part: which slice of the parameter the operand is, as "[2]"; "" for none.
        inputs: input features.
        outputs: output features.
        kernel: spatial taps.
        groups: groups of a convolution.
        copies: different matrices stacked in the parameter; each row meets one.
    """

    parameter: str
    direct: bool
    activation: int
    flops: int
    kind: str
    part: str = ""
    inputs: int = 0
    outputs: int = 0
    kernel: tuple[int, ...] = ()
    groups: int = 1
    copies: int = 1


@dataclass(frozen=True)
class Unseen:
    """An operation on a matrix of parameters that we cannot name; `node.meta["unseen"]`.

    Args:
        operation: its name.
        parameter: path of the parameter.
        flops: a guess: two per element of the parameter and row of the result.
    """

    operation: str
    parameter: str
    flops: int


@dataclass(frozen=True)
class AnnotateWeights(Pass):
    """Mark every dense operation that has a parameter as an operand.

    A weight may be computed, from parameters, buffers and constants; the taps of a convolution also
    from a parameter that the inputs modulate. A product of two such values
    makes a constant and is no weight operation, unless it is a layer's call on its own weight.

    Requires: a recorded graph (a walked one is left alone). Ensures: `node.meta["weight"]` is a
    `WeightUse` on each such node (`meta["weights"]` has all, where one node uses several), and
    `meta["unseen"]` an `Unseen` where the operation is unknown; the graph itself is unchanged.
    Before: addmm = aten.addmm(bias, x, t)      # t = aten.t(fc1.weight)
    After:  addmm = aten.addmm(bias, x, t)      # meta["weight"] = WeightUse("fc1.weight", ...)
    """

    name: ClassVar[str] = "annotate-weights"

    def run(self, program: Program) -> PassResult:
        """Follow parameters through the graph in the order of execution."""
        if not program.recorded:
            return PassResult(program, False, "no recorded graph to annotate")
        owners = _owners(program.module)
        origins = Origins()
        count = 0
        for node in program.graph.nodes:
            origins.follow(node)
            uses = _uses(node, origins, owners)
            if uses:
                node.meta["weight"], node.meta["weights"] = uses[0], uses
                count += len(uses)
            elif node.op == "call_function" and is_dense(node):
                unseen = _unseen(node, origins)
                if unseen is not None:
                    node.meta["unseen"] = unseen
        return PassResult(replace(program, annotated=True), True, f"{count} weight operations")


def weight_uses(node: fx.Node) -> tuple[WeightUse, ...]:
    """All uses of parameters as weights that a node was marked with."""
    uses: tuple[WeightUse, ...] = node.meta.get("weights", ())
    return uses


def unseen_share(program: Program) -> tuple[float, tuple[str, ...]]:
    """Share of the weight FLOPs in operations that we cannot name, and these, once each.

    Args:
        program: annotated, with its sites.
    """
    unseen = [node.meta["unseen"] for node in program.graph.nodes if "unseen" in node.meta]
    if not unseen:
        return 0.0, ()
    lost = sum(operation.flops for operation in unseen)
    seen = sum(site.dense_flops for site in program.sites)
    names = dict.fromkeys(f"{each.operation}({each.parameter})" for each in unseen)
    return lost / max(1, lost + seen), tuple(names)


def _owners(model: nn.Module) -> dict[str, set[str]]:
    """Path of each module with a `weight` -> the names of that parameter, several if tied."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {
        path: names[id(weight)]
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(weight := module._parameters.get("weight"), nn.Parameter)
    }


def _uses(node: fx.Node, origins: Origins, owners: dict[str, set[str]]) -> tuple[WeightUse, ...]:
    uses = []
    for ways in readings(node):
        found = [(way, origin) for way in ways if (origin := _origin(way, origins)) is not None]
        found = [(way, origin) for way, origin in found if origin.parameter]
        if not found:
            continue
        way, origin = max(found, key=lambda pair: pair[1].direct)
        other = origins.of(node.args[way.activation])
        if other is not None and not _is_call(node, origin, owners):
            if other.is_held and not (other.is_hidden or origin.is_hidden):
                continue
            if other.is_hidden or origin.is_hidden:
                origins.forget(node)
        uses.append(_use(way, origin))
    return tuple(uses)


def _origin(way: Reading, origins: Origins) -> Origin | None:
    """What the operand that would be the weight is made of, None where of the inputs alone.

    The taps of a convolution stay a weight where the inputs modulate them.
    """
    origin = origins.of(way.weight)
    if origin is None and way.kind.startswith("conv"):
        return origins.mixed(way.weight)
    return origin


def _is_call(node: fx.Node, origin: Origin, owners: dict[str, set[str]]) -> bool:
    """Whether the module that is running applies its own weight."""
    scope = node.meta.get("scope")
    running = scope[-1] if scope else "?"
    return origin.direct and origin.parameter in owners.get(running, ())


def _use(way: Reading, origin: Origin) -> WeightUse:
    distinct = origin.distinct // max(1, way.inputs * way.outputs)
    copies = max(1, min(way.copies, distinct))
    return WeightUse(
        origin.parameter,
        origin.direct,
        way.activation,
        way.flops,
        way.kind,
        origin.part,
        way.inputs,
        way.outputs,
        way.kernel,
        way.groups,
        copies,
    )


def _unseen(node: fx.Node, origins: Origins) -> Unseen | None:
    """The largest matrix of parameters that an operation reads, where its result is no constant."""
    if readings(node) or origins.of(node) is not None:
        return None
    read = [
        (origin.size, origin.parameter)
        for source in node.all_input_nodes
        if (origin := origins.of(source)) is not None
        and origin.parameter
        and len(source.meta.get("shape", ())) >= 2
    ]
    if not read:
        return None
    size, parameter = max(read)
    return Unseen(str(node.target), parameter, 2 * _rows(node) * size)


def _rows(node: fx.Node) -> int:
    """Rows of a node's result, of its first one where there are several."""
    for made in (node, *node.users):
        shape = made.meta.get("shape")
        if shape:
            return math.prod(shape[:-1])
    return 1
