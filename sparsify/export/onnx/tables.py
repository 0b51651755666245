"""Index tables: what the seeded shuffles and graph stages of a fabric read, as one vector.

A kernel needs to know which feature each output of such a step reads. A file stores no lists of
them: ordinary nodes of its main graph compute one int64 vector for each fabric, all tables in the
order of the steps, which the fabric's node takes as its input `indices`. All of it depends on
constants alone, so that onnxruntime computes it once, when it loads the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...native.description import Description, Indexed
from ...steps import GraphStage
from .graph import GraphWriter
from .neighbours import write_neighbours, write_permutations

__all__ = ["INDICES", "read_table", "write_tables"]

INDICES = "indices"
"""The name of the input, after x and before the weights."""


def read_table(write: GraphWriter, tables: Description, step: Indexed) -> str:
    """Write the node that cuts a step's table out of `indices`: the name of int64 (n,)."""
    start = tables.starts[step]
    ends = write.constant([start]), write.constant([start + tables.size(step)])
    return str(write("Slice", INDICES, *ends))


def write_tables(write: GraphWriter, steps: Sequence[Indexed]) -> str:
    """Write the nodes that compute tables, one after the other.

    Args:
        write: where the nodes go.
        steps: whose tables, as in `Description.starts`.

    Returns:
        The name of int64 (length,).

    Raises:
        ModelError: the generator of a graph has no form in ONNX.
    """
    tables = [write.reshape(_table(write, step), [Description.size(step)]) for step in steps]
    return str(write("Concat", *tables, axis=0))


def _table(write: GraphWriter, step: Indexed) -> str:
    if isinstance(step, GraphStage):
        return write_neighbours(write, step)
    return write_permutations(write, 1, step.size, step.seed or 0)
