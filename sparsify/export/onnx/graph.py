"""A little writer of ONNX nodes, for function bodies and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphWriter"]


class GraphWriter:
    """Collects nodes and invents the names of its values.

    Example:
        >>> write = GraphWriter()
        >>> write("Add", "x", write.constant([1, 2]))
        'add_1'
        >>> [node.op_type for node in write.nodes]
        ['Constant', 'Add']
    """

    def __init__(self, prefix: str = "") -> None:
        """Start empty.

        Args:
            prefix: what all invented names start with.
        """
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[bytes, str] = {}

    def __call__(
        self, op: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: Any
    ) -> Any:
        """Add a node.

        Args:
            op: its operator, of the default domain.
            *inputs: names of its inputs.
            outputs: names of its outputs, or how many to invent.
            **attributes: its attributes.

        Returns:
            The name of its output; a list of them where there are several.
        """
        from onnx import helper

        if isinstance(outputs, int):
            stem = f"{self._prefix}{op.lower()}_{len(self.nodes)}"
            outputs = [stem if outputs == 1 else f"{stem}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def constant(self, values: Sequence[int]) -> str:
        """Name a vector of int64; equal ones are written once."""
        from onnx import numpy_helper

        array = np.asarray(values, np.int64)
        key = array.tobytes()
        if key not in self._constants:
            self._constants[key] = self("Constant", value=numpy_helper.from_array(array))
        return self._constants[key]

    def range(self, start: int, stop: int, step: int) -> str:
        """Name the int64 numbers from start, below stop."""
        ends = (self("Constant", value_int=number) for number in (start, stop, step))
        return str(self("Range", *ends))

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """Reshape to fixed sizes; one of them may be -1, for rows in any number, zero included.

        With the other sizes fixed and positive, -1 stays defined where there are no rows.
        """
        return str(self("Reshape", value, self.constant(shape)))

    def transpose(self, value: str, *perm: int) -> str:
        """Permute axes."""
        return str(self("Transpose", value, perm=perm))
