"""The custom ops of an exported file: one node per fabric, one function body per structure.

Names. A file needs a body for each structure, and a native library must override all of them though
it registers its ops before it sees a file. So a name is the kind, the version of the op's meaning
and a running number within the file (`Fabric_v1_0`, `Fabric_v1_1`, `FabricConv_v1_0`): a library
registers the first few hundred names, each for the same kernel, which reads the structure from the
node's attributes; numbers beyond run by their body. The `overload` field of functions would say the
same more plainly, but onnxruntime 1.20 to 1.26 silently runs the last overload for all of them, and
files that have it do not load in 1.16 and 1.17.

Attributes of a node, all integers: `in_features`, `out_features`; `branches` (steps of each
branch); `steps`, four numbers for each step: (a, b, c, d) of a stage, (0, size, stride, 0) and
(-1, size, 0, seed) of a shuffle, (-2, start, length, 0) of a graph stage, which is described by so
many numbers from there in `graphs`: generator, in_features, out_features, degree, seed, *options.
Generators are numbered as in `GENERATORS`; seeds are signed numbers of the same 64 bits; there is
no `graphs` without graph stages. A first step wider than in_features wraps, a last step wider than
out_features folds (see `sparsify.fabric`). A convolution adds `kernel_shape`, `spatial` (the step
of each branch that the window applies to), `strides`, `pads`, `dilations`.
Inputs: x, then the weights in the order of the stages, shapes (a, d, b, c, *kernel); of a graph
stage (out, degree, *kernel), where weight k of an output is for its k-th neighbour. No bias.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError
from ..fabric import Fabric
from ..ops.window import Window
from ..steps import GraphStage, Shuffle, Stage
from .onnx_body import write_fabric
from .onnx_conv_body import spatial_step, window_attributes, write_fabric_conv
from .onnx_graph import GraphWriter

if TYPE_CHECKING:
    import onnx

__all__ = ["DOMAIN", "GENERATORS", "OpTable", "structure"]

DOMAIN = "ai.sparsify"
_DOMAIN_VERSION = 1  # runtimes ignore it for custom ops; new meanings get new names
_VERSION = "v1"
_TYPES = ["tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)"]
GENERATORS = ("random", "hypercube", "circulant", "torus", "radix", "paley", "plane", "xor")
"""Names of `sparsify.steps.GRAPHS` by their number in a file, which never changes."""

_Structure = tuple[Fabric, Window | None]


class OpTable:
    """Names the structures that one exported file uses.

    Example:
        >>> table = OpTable()
        >>> table.name(Fabric(2, 3, ((Stage(1, 3, 2, 1),),)))
        'Fabric_v1_0'
    """

    def __init__(self) -> None:
        """Start empty."""
        self._names: dict[_Structure, str] = {}

    def name(self, fabric: Fabric, window: Window | None = None) -> str:
        """The op of a structure: the same one for the same structure, else a new one."""
        kind = f"{'FabricConv' if window else 'Fabric'}_{_VERSION}_"
        number = sum(name.startswith(kind) for name in self._names.values())
        return self._names.setdefault((fabric, window), f"{kind}{number}")

    def translations(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """How torch's exporter shall write our ops."""

        def write_linear(x: Any, factors: Any, fabric: str) -> Any:
            return self._node(Fabric.from_json(fabric), None, x, factors)

        def write_conv(
            x: Any,
            factors: Any,
            fabric: str,
            stride: Sequence[int],
            padding: Sequence[int],
            dilation: Sequence[int],
        ) -> Any:
            window = Window.of(stride, padding, dilation)
            return self._node(Fabric.from_json(fabric), window, x, factors)

        ops = torch.ops.sparsify
        return {ops.fabric.default: write_linear, ops.fabric_conv.default: write_conv}

    def functions(self, used: Collection[str], opset: int) -> list[onnx.FunctionProto]:
        """The bodies of the ops that a file uses.

        Args:
            used: op names that occur in the file.
            opset: its version of the default domain; checkers want bodies of the same.
        """
        return [
            _function(name, fabric, window, opset)
            for (fabric, window), name in self._names.items()
            if name in used
        ]

    def _node(self, fabric: Fabric, window: Window | None, x: Any, factors: Sequence[Any]) -> Any:
        from onnxscript import values

        name = self.name(fabric, window)
        attributes = structure(fabric, window)
        op = values.Op(
            values.Opset(DOMAIN, _DOMAIN_VERSION), name, _schema(name, len(factors), attributes)
        )
        return op(x, *factors, **attributes)


def structure(fabric: Fabric, window: Window | None = None) -> dict[str, int | list[int]]:
    """The attributes of a node, as the head of this file lists them.

    Example:
        >>> structure(Fabric(2, 3, ((Stage(1, 3, 2, 1),),)))["steps"]
        [1, 3, 2, 1]
    """
    steps: list[int] = []
    graphs: list[int] = []
    for step in (step for branch in fabric.branches for step in branch):
        if isinstance(step, GraphStage):
            numbers = _graph_numbers(step)
            steps += [-2, len(graphs), len(numbers), 0]
            graphs += numbers
        else:
            steps += _numbers(step)
    attributes: dict[str, int | list[int]] = {
        "in_features": fabric.in_features,
        "out_features": fabric.out_features,
        "branches": [len(branch) for branch in fabric.branches],
        "steps": steps,
    }
    if graphs:
        attributes["graphs"] = graphs
    if window:
        attributes["kernel_shape"] = list(fabric.kernel or (1,) * len(window.stride))
        attributes["spatial"] = [spatial_step(branch) for branch in fabric.branches]
        attributes |= window_attributes(window)
    return attributes


def _numbers(step: Stage | Shuffle) -> tuple[int, int, int, int]:
    if isinstance(step, Stage):
        return step.a, step.b, step.c, step.d
    if step.stride is not None:
        return 0, step.size, step.stride, 0
    return -1, step.size, 0, _signed(step.seed or 0)


def _graph_numbers(stage: GraphStage) -> list[int]:
    if stage.graph not in GENERATORS:
        raise ModelError(
            f"The graph {stage.graph!r} has no number in exported files; there are numbers for "
            f"{', '.join(GENERATORS)}."
        )
    sizes = (stage.in_features, stage.out_features, stage.degree)
    generator = GENERATORS.index(stage.graph)
    return [generator, *sizes, _signed(stage.seed), *stage.options]


def _signed(seed: int) -> int:
    """A seed as the signed 64-bit number of the same bits."""
    return (seed + 2**63) % 2**64 - 2**63


def _schema(name: str, factors: int, attributes: dict[str, Any]) -> onnx.defs.OpSchema:
    from onnx.defs import OpSchema

    formal, kind = OpSchema.FormalParameter, OpSchema.AttrType
    return OpSchema(
        name,
        DOMAIN,
        _DOMAIN_VERSION,
        inputs=[formal(name, "T") for name in _inputs(factors)],
        outputs=[formal("y", "T")],
        type_constraints=[("T", _TYPES, "")],
        attributes=[
            OpSchema.Attribute(key, kind.INTS if isinstance(value, list) else kind.INT, "")
            for key, value in attributes.items()
        ],
    )


def _inputs(factors: int) -> list[str]:
    return ["x", *(f"factor_{i}" for i in range(factors))]


def _function(name: str, fabric: Fabric, window: Window | None, opset: int) -> onnx.FunctionProto:
    from onnx import helper

    write = GraphWriter()
    x, *factors = _inputs(len(fabric.stages))
    if window:
        result = write_fabric_conv(write, fabric, window, x, iter(factors))
    else:
        result = write_fabric(write, fabric, x, iter(factors))
    write("Identity", result, outputs=["y"])
    return helper.make_function(
        DOMAIN,
        name,
        [x, *factors],
        ["y"],
        write.nodes,
        [helper.make_opsetid("", opset)],
        attributes=list(structure(fabric, window)),
    )
