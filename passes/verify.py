"""The rewritten model is what the plan says, and runs as the old one did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..errors import VerificationError
from ..nn import FabricLayer
from .base import Pass, PassResult, Program

__all__ = ["Verify"]


@dataclass(frozen=True)
class Verify(Pass):
    """Check the sizes against the plan, and record the new model once more.

    Requires: replaced layers. Ensures: the parameters are those of the plan and within its budget;
    where inputs are known, the outputs have the old shapes and every planned call hits our ops
    (unless the model's control flow depends on data, which the new weights change).
    Before and after: the same graph.

    Raises:
        VerificationError: one of these does not hold.
    """

    name: ClassVar[str] = "verify"

    def requires(self, program: Program) -> None:
        """The layers are replaced."""
        self.need(program.module is not program.original, "replaced layers")

    def run(self, program: Program) -> PassResult:
        """Count, then record."""
        self._check_sizes(program)
        if program.record is None:
            return PassResult(program, False, "sizes agree; no inputs to run on")
        graph = program.record(program.module)
        if _outputs(graph).meta.get("data_dependent"):
            return PassResult(program, False, "sizes agree; control flow depends on data")
        before, after = _output_shapes(program.graph), _output_shapes(graph)
        if before != after:
            raise VerificationError(
                f"The converted model's outputs have the shapes {after}; they had {before}."
            )
        self._check_calls(program, graph)
        return PassResult(program, False, "sizes, output shapes and calls agree")

    def _check_sizes(self, program: Program) -> None:
        for site in program.plan.replaced if program.plan is not None else ():
            layer = program.module.get_submodule(site.name)
            if not isinstance(layer, FabricLayer):
                raise VerificationError(f"{site.name!r} was to be a fabric; it is {layer}.")
            count = sum(factor.numel() for factor in layer.factors)
            if count != site.parameters:
                raise VerificationError(
                    f"{site.name!r} has {count} parameters; the plan says {site.parameters}."
                )

    def _check_calls(self, program: Program, graph: fx.Graph) -> None:
        planned = Counter(
            {site.name: site.calls for site in program.plan.replaced} if program.plan else {}
        )
        seen = Counter(
            node.meta["scope"][-1]
            for node in graph.nodes
            if str(node.target).startswith("sparsify.fabric") and node.meta["scope"]
        )
        for name, calls in planned.items():
            if seen[name] != calls:
                raise VerificationError(
                    f"{name!r} was called {calls} times as a dense layer and {seen[name]} times as "
                    "a fabric: the model's code does not call the layer but reads its weight."
                )


def _outputs(graph: fx.Graph) -> fx.Node:
    return graph.output_node()


def _output_shapes(graph: fx.Graph) -> list[tuple[int, ...]]:
    return [tuple(node.meta["shape"]) for node in _outputs(graph).args[0]]  # type: ignore[union-attr]
