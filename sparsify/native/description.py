"""A fabric in the numbers of `sparsify.h`, which calls of the library and exported files share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..fabric import Fabric, GraphStage, Shuffle, Stage, Step

__all__ = ["Description", "Indexed"]

Indexed = Shuffle | GraphStage
"""A step that reads a table of indices: a seeded shuffle or a graph stage."""

_BLOCKS, _TRANSPOSE, _PERMUTATION, _GRAPH = range(4)  # kinds of a step

_Numbers = npt.NDArray[np.int64]


class Description:
    """The steps of a fabric, five numbers each, and where the tables of indices lie.

    Attributes:
        branches: steps of each branch.
        steps: five numbers for each step.
        starts: where the table of a step begins in the indices; equal steps share one.
        length: of the indices.

    Example:
        >>> fabric = Fabric(4, 4, ((Shuffle(4, seed=1), Stage(2, 2, 2, 1)),))
        >>> described = Description(fabric)
        >>> described.steps, described.length
        ([2, 4, 0, 0, 0, 0, 2, 2, 2, 1], 4)
        >>> sorted(described.indices().tolist())
        [0, 1, 2, 3]
    """

    def __init__(self, fabric: Fabric) -> None:
        """Lay out the tables; most fabrics have none."""
        self._widths = (fabric.in_features, fabric.out_features)
        self.branches = [len(branch) for branch in fabric.branches]
        self.starts: dict[Indexed, int] = {}
        self.length = 0
        self.steps: list[int] = []
        for step in (step for branch in fabric.branches for step in branch):
            if not isinstance(step, Stage) and not _is_stride(step) and step not in self.starts:
                self.starts[step] = self.length
                self.length += self.size(step)
            self.steps += self._step(step)

    def numbers(self) -> _Numbers:
        """The whole description, as `sparsify_create` takes it."""
        head = (*self._widths, len(self.branches))
        return np.array([*head, *self.branches, *self.steps], np.int64)

    def indices(self) -> _Numbers:
        """All tables, one after the other, (length,)."""
        tables = [
            step.neighbours().ravel() if isinstance(step, GraphStage) else step.permutation()
            for step in self.starts
        ]
        return np.concatenate([np.empty(0, np.int64), *tables], dtype=np.int64)

    @staticmethod
    def size(step: Indexed) -> int:
        """The indices of a step."""
        return step.out_features * (step.degree if isinstance(step, GraphStage) else 1)

    def _step(self, step: Step) -> tuple[int, int, int, int, int]:
        if isinstance(step, Stage):
            return _BLOCKS, step.a, step.b, step.c, step.d
        if isinstance(step, GraphStage):
            return _GRAPH, step.in_features, step.out_features, step.degree, self.starts[step]
        if step.stride is not None:
            return _TRANSPOSE, step.size, step.stride, 0, 0
        return _PERMUTATION, step.size, self.starts[step], 0, 0


def _is_stride(step: Indexed) -> bool:
    return isinstance(step, Shuffle) and step.stride is not None
