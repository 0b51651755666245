"""The custom ops of an exported file: one node per fabric, one function body per structure.

Names. A file needs a body for each structure, which is what the attributes of a node say, and a
native library must override all of them though it registers its ops before it sees a file. So a
name is the kind, the version of the op's meaning and a running number within the file
(`Fabric_v1_0`, `Fabric_v1_1`, `FabricConv_v1_0`): a library registers the first 64 of each kind,
all for the same kernel, which reads the structure from the attributes; numbers beyond run by
their body. The `overload` field of functions would say the same more plainly, but onnxruntime 1.20
to 1.26 silently runs the last overload for all of them, and files that have it do not load in 1.16
and 1.17.

Kinds. `Fabric` takes the last axis of x, `FabricConv` and `FabricConvTranspose` axis 1 of an image.
Where a fabric has graph stages or random shuffles, `Indexed` follows (`FabricConvIndexed`).

Attributes, all integers: `in_features`, `out_features`; `branches` (steps of each branch); `steps`,
five numbers for each step, as in `sparsify.h`:

    0, a, b, c, d                      a Kronecker-sparse stage
    1, size, stride, 0, 0              features, as (size / stride, stride), change places
    2, size, start, 0, 0               output i reads feature indices[start + i]
    3, in, out, degree, start          a graph stage: edge k of output i reads feature
                                       indices[start + i * degree + k]

A first step wider than in_features wraps, a last step wider than out_features folds (see
`sparsify.fabric`). `has_bias` is 1 where the last input is a bias, else 0. Convolutions have no
bias; they add `kernel_shape`, `spatial` (the step of each branch that the window applies to),
`strides`, `pads`, `dilations`; transposed ones `output_padding` too.

Inputs: x; of the indexed kinds `indices`, one vector of int64 (see `onnx_tables`); then the weights
in the order of the stages, shapes (a, d, b, c, *kernel), of a graph stage (out, degree, *kernel);
then the bias (out_features).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from ...fabric import Fabric
from ...native.description import Description, Indexed
from ...ops.window import Window
from .body import write_fabric
from .conv_body import spatial_step, window_attributes, write_fabric_conv
from .graph import GraphWriter
from .tables import INDICES, write_tables

if TYPE_CHECKING:
    import onnx

__all__ = ["DOMAIN", "DOMAIN_VERSION", "TABLES", "OpTable", "structure"]

DOMAIN = "ai.sparsify"
DOMAIN_VERSION = 1  # runtimes ignore it for custom ops; new meanings get new names
_VERSION = "v1"
_TYPES = ["tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)"]

_Structure = tuple[str, str]  # kind, attributes
_Tables = tuple[Indexed, ...]
TABLES = "tables"  # an attribute that nodes have until they get their indices: `OpTable.tables`


class OpTable:
    """Names the structures that one exported file uses.

    Example:
        >>> from sparsify.fabric import Stage
        >>> table = OpTable()
        >>> table.name(Fabric(2, 3, ((Stage(1, 3, 2, 1),),)))
        'Fabric_v1_0'
    """

    def __init__(self, taken: Collection[str] = ()) -> None:
        """Start empty.

        Args:
            taken: names of ops and values that the file has already.
        """
        self._taken = frozenset(taken)
        self._names: dict[_Structure, str] = {}
        self._examples: dict[str, tuple[Fabric, Window | None, bool]] = {}
        self._tables: dict[_Tables, int] = {}

    def name(self, fabric: Fabric, window: Window | None = None, bias: bool = False) -> str:
        """The op of a structure: the same one for the same attributes, else a new one."""
        kind = "FabricConv" if window else "Fabric"
        kind += "Transpose" if window and window.transposed else ""
        kind += f"{'Indexed' if Description(fabric).starts else ''}_{_VERSION}_"
        names = (f"{kind}{number}" for number in count())
        free = next(name for name in names if name not in self._taken | self._examples.keys())
        key = kind, str(structure(fabric, window, bias))
        name = self._names.setdefault(key, free)
        self._examples.setdefault(name, (fabric, window, bias))
        return name

    def translations(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """How torch's exporter shall write our ops."""

        def write_linear(x: Any, factors: Any, fabric: str, bias: Any = None) -> Any:
            return self._node(Fabric.from_json(fabric), None, x, factors, bias)

        def write_conv(
            x: Any,
            factors: Any,
            fabric: str,
            stride: Sequence[int],
            padding: Sequence[int],
            dilation: Sequence[int],
            transposed: bool = False,
            output_padding: Sequence[int] = (),
        ) -> Any:
            window = Window.of(stride, padding, dilation, transposed, output_padding)
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
            _function(name, *example, opset)
            for name, example in self._examples.items()
            if name in used
        ]

    def tables(self, fabric: Fabric) -> int | None:
        """The number of a fabric's index tables, None where it has none."""
        steps = tuple(Description(fabric).starts)
        return self._tables.setdefault(steps, len(self._tables)) if steps else None

    def write_tables(self, number: int) -> GraphWriter:
        """The nodes that compute index tables; the last one's output is the `indices`.

        Raises:
            ModelError: the generator of a graph has no form in ONNX.
        """
        prefix = f"indices_{number}."
        while any(name.startswith(prefix) for name in self._taken):
            prefix = f"_{prefix}"
        write = GraphWriter(prefix)
        write_tables(write, list(self._tables)[number])
        return write

    def _node(
        self,
        fabric: Fabric,
        window: Window | None,
        x: Any,
        factors: Sequence[Any],
        bias: Any = None,
    ) -> Any:
        from onnxscript import values

        has_bias, tables = bias is not None, self.tables(fabric)
        name = self.name(fabric, window, has_bias)
        attributes = structure(fabric, window, has_bias)
        open_ = []
        if tables is not None:  # a node gets its indices when the graph is whole
            open_ = [None]
            attributes[TABLES] = tables
        schema = _schema(name, _inputs(fabric, has_bias), attributes)
        op = values.Op(values.Opset(DOMAIN, DOMAIN_VERSION), name, schema)
        return op(x, *open_, *factors, *([bias] if has_bias else []), **attributes)


def structure(
    fabric: Fabric, window: Window | None = None, bias: bool = False
) -> dict[str, int | list[int]]:
    """The attributes of a node, as the head of this file lists them.

    Example:
        >>> from sparsify.fabric import Stage
        >>> structure(Fabric(2, 3, ((Stage(1, 3, 2, 1),),)))["steps"]
        [0, 1, 3, 2, 1]
    """
    described = Description(fabric)
    attributes: dict[str, int | list[int]] = {
        "in_features": fabric.in_features,
        "out_features": fabric.out_features,
        "branches": described.branches,
        "steps": described.steps,
    }
    if window:
        attributes["kernel_shape"] = list(fabric.kernel or (1,) * len(window.stride))
        attributes["spatial"] = [spatial_step(branch, window) for branch in fabric.branches]
        attributes |= window_attributes(window)
    else:
        attributes["has_bias"] = int(bias)
    return attributes


def _schema(name: str, inputs: Sequence[str], attributes: dict[str, Any]) -> onnx.defs.OpSchema:
    from onnx.defs import OpSchema

    formal, kind = OpSchema.FormalParameter, OpSchema.AttrType
    return OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[formal(name, "tensor(int64)" if name == INDICES else "T") for name in inputs],
        outputs=[formal("y", "T")],
        type_constraints=[("T", _TYPES, "")],
        attributes=[
            OpSchema.Attribute(key, kind.INTS if isinstance(value, list) else kind.INT, "")
            for key, value in attributes.items()
        ],
    )


def _inputs(fabric: Fabric, bias: bool) -> list[str]:
    indices = [INDICES] if Description(fabric).starts else []
    factors = [f"factor_{i}" for i in range(len(fabric.stages))]
    return ["x", *indices, *factors, *(["bias"] if bias else [])]


def _function(
    name: str, fabric: Fabric, window: Window | None, bias: bool, opset: int
) -> onnx.FunctionProto:
    from onnx import helper

    write = GraphWriter()
    inputs = _inputs(fabric, bias)
    factors = iter(name for name in inputs if name.startswith("factor_"))
    if window:
        result = write_fabric_conv(write, fabric, window, inputs[0], factors)
    else:
        result = write_fabric(write, fabric, inputs[0], factors)
    write("Add" if bias else "Identity", result, *(["bias"] if bias else []), outputs=["y"])
    return helper.make_function(
        DOMAIN,
        name,
        inputs,
        ["y"],
        write.nodes,
        [helper.make_opsetid("", opset)],
        attributes=list(structure(fabric, window, bias)),
    )
