"""Index tables: what the seeded shuffles and graph stages of a fabric read, as one vector.

A kernel needs to know which feature each output of such a step reads. A file stores no lists of
them: ordinary nodes of its main graph compute one int64 vector for each fabric, all tables in the
order of the steps, which the fabric's node takes as its input `indices`. All of it depends on
constants alone, so that onnxruntime computes it once, when it loads the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..steps import GraphStage, Shuffle, Stage
from .onnx_graph import GraphWriter
from .onnx_neighbours import write_neighbours, write_permutations

if TYPE_CHECKING:
    from ..fabric import Fabric

__all__ = ["INDICES", "IndexTables", "write_tables"]

INDICES = "indices"
"""The name of the input, after x and before the weights."""


class IndexTables:
    """Where the tables of a fabric lie in its `indices`. Equal steps share one.

    Example:
        >>> from sparsify.fabric import Fabric
        >>> tables = IndexTables(Fabric(4, 4, ((Shuffle(4, seed=1), Stage(2, 2, 2, 1)),)))
        >>> tables.starts, tables.length
        ({Shuffle(size=4, stride=None, seed=1): 0}, 4)
    """

    def __init__(self, fabric: Fabric) -> None:
        """Lay out the tables of a fabric; most fabrics have none."""
        self.starts: dict[Shuffle | GraphStage, int] = {}
        self.length = 0
        for step in (step for branch in fabric.branches for step in branch):
            is_stride = isinstance(step, Shuffle) and step.stride is not None
            if not isinstance(step, Stage) and not is_stride and step not in self.starts:
                self.starts[step] = self.length
                self.length += _length(step)

    def read(self, write: GraphWriter, step: Shuffle | GraphStage) -> str:
        """Write the node that cuts a step's table out of `indices`: the name of int64 (n,)."""
        start = self.starts[step]
        ends = write.constant([start]), write.constant([start + _length(step)])
        return str(write("Slice", INDICES, *ends))


def write_tables(write: GraphWriter, steps: Sequence[Shuffle | GraphStage]) -> str:
    """Write the nodes that compute tables, one after the other.

    Args:
        write: where the nodes go.
        steps: whose tables, as in `IndexTables.starts`.

    Returns:
        The name of int64 (length,).

    Raises:
        ModelError: the generator of a graph has no form in ONNX.
    """
    tables = [write.reshape(_table(write, step), [_length(step)]) for step in steps]
    return str(write("Concat", *tables, axis=0))


def _length(step: Shuffle | GraphStage) -> int:
    return step.out_features * (step.degree if isinstance(step, GraphStage) else 1)


def _table(write: GraphWriter, step: Shuffle | GraphStage) -> str:
    if isinstance(step, GraphStage):
        return write_neighbours(write, step)
    return write_permutations(write, 1, step.size, step.seed or 0)
