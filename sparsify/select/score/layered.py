"""The graph that a fabric is: features as nodes, weights as edges, blocks as hubs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ...fabric import Branch, Fabric, Shuffle, Stage, Weighted
from ...quiet import load_scipy

__all__ = ["LayeredGraph", "blocks_of", "layered", "links"]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayeredGraph:
    """Nodes are the features at every interface; an edge is a weight (of all taps together).

    The inputs come first, then the outputs, then what lies between. A feature that wraps or folds
    is one node, and a shuffle only renames. The edges of a block join all that it reads with all
    that it writes: they are kept as a hub between the two, so that no edge of a block is stored.

    Attributes:
        reads: scipy CSR (hubs, nodes): how often each hub reads a node.
        writes: the same for what it writes.
        direct: scipy CSR (nodes, nodes): the edges of graph stages, from the column to the row.
        inputs: number of inputs.
        outputs: number of outputs.
        depth: weighted stages of the longest branch.
    """

    reads: Any
    writes: Any
    direct: Any
    inputs: int
    outputs: int
    depth: int

    @property
    def nodes(self) -> int:
        """Number of features in all."""
        return int(self.direct.shape[0])

    def forward(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Each node's sum over the edges that lead to it."""
        total: npt.NDArray[Any] = self.writes.T @ (self.reads @ values) + self.direct @ values
        return total

    def backward(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Each node's sum over the edges that leave it."""
        total: npt.NDArray[Any] = self.reads.T @ (self.writes @ values) + self.direct.T @ values
        return total

    def paths(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The path-count matrix times a vector, or a matrix, over the inputs."""
        wave = np.zeros((self.nodes, *values.shape[1:]), values.dtype)
        wave[: self.inputs] = values
        total = np.zeros((self.outputs, *values.shape[1:]), values.dtype)
        for _ in range(self.depth):
            wave = self.forward(wave)
            total += wave[self.inputs : self.inputs + self.outputs]
        return total

    def paths_transposed(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The transposed path-count matrix times a vector, or a matrix, over the outputs."""
        wave = np.zeros((self.nodes, *values.shape[1:]), values.dtype)
        wave[self.inputs : self.inputs + self.outputs] = values
        total = np.zeros((self.inputs, *values.shape[1:]), values.dtype)
        for _ in range(self.depth):
            wave = self.backward(wave)
            total += wave[: self.inputs]
        return total

    @property
    def is_connected(self) -> bool:
        """Whether every feature is joined to every other, by whatever path.

        The inputs and outputs joined by the fabric's paths are connected exactly then, as no
        feature of a fabric is a dead end.
        """
        load_scipy()
        from scipy.sparse import block_array
        from scipy.sparse.csgraph import connected_components

        edges = block_array([[self.direct, None], [self.reads + self.writes, None]], format="csr")
        hubs = self.reads.shape[0]
        edges.resize((self.nodes + hubs, self.nodes + hubs))
        return bool(connected_components(edges, directed=False)[0] == 1)


@lru_cache(maxsize=16)
def layered(fabric: Fabric) -> LayeredGraph:
    """The graph of a fabric.

    Example:
        >>> from sparsify.fabric import Fabric, Stage
        >>> graph = layered(Fabric(4, 2, ((Stage(1, 2, 4, 1),),)))
        >>> graph.nodes, graph.reads.shape, graph.is_connected
        (6, (1, 6), True)
    """
    load_scipy()
    from scipy.sparse import csr_array

    nodes = fabric.in_features + fabric.out_features
    hubs = 0
    reads: list[tuple[Ids, Ids]] = []
    writes: list[tuple[Ids, Ids]] = []
    direct: list[tuple[Ids, Ids]] = []
    for branch in fabric.branches:
        found, nodes = links(fabric, branch, nodes)
        for stage, sources, targets in found:
            if isinstance(stage, Stage):
                inputs, outputs = blocks_of(stage)
                reads.append((inputs + hubs, sources))
                writes.append((outputs + hubs, targets))
                hubs += stage.a * stage.d
            else:
                rows = np.repeat(targets, stage.degree)
                direct.append((rows, sources[stage.neighbours().reshape(-1)]))

    def matrix(pairs: list[tuple[Ids, Ids]], rows: int) -> Any:
        row, column = (
            np.concatenate([pair[side] for pair in pairs] or [np.zeros(0, np.int64)])
            for side in (0, 1)
        )
        return csr_array((np.ones(row.size), (row, column)), shape=(rows, nodes))

    return LayeredGraph(
        matrix(reads, hubs),
        matrix(writes, hubs),
        matrix(direct, nodes),
        fabric.in_features,
        fabric.out_features,
        max(sum(isinstance(s, Weighted) for s in branch) for branch in fabric.branches),
    )


def blocks_of(stage: Stage) -> tuple[Ids, Ids]:
    """The block (a, d) that each input and each output of a stage belongs to.

    Example:
        >>> [side.tolist() for side in blocks_of(Stage(2, 1, 2, 2))]
        [[0, 1, 0, 1, 2, 3, 2, 3], [0, 1, 2, 3]]
    """
    block = np.arange(stage.a * stage.d).reshape(stage.a, 1, stage.d)
    inputs, outputs = (
        np.broadcast_to(block, (stage.a, size, stage.d)).reshape(-1) for size in (stage.c, stage.b)
    )
    return inputs, outputs


def links(
    fabric: Fabric, branch: Branch, nodes: int
) -> tuple[list[tuple[Weighted, Ids, Ids]], int]:
    """Each stage with the nodes at its inputs and outputs, hidden ones numbered from `nodes` on.

    Returns:
        The stages with their nodes, and the number of nodes after them.

    Example:
        >>> from sparsify.fabric import Fabric, Shuffle, Stage
        >>> fabric = Fabric(4, 2, ((Shuffle(4, stride=2), Stage(2, 1, 2, 1)),))
        >>> [(r.tolist(), w.tolist()) for _, r, w in links(fabric, fabric.branches[0], 6)[0]]
        [([0, 2, 1, 3], [4, 5])]
    """
    ends = np.arange(branch[-1].out_features) % fabric.out_features + fabric.in_features
    weighted = [place for place, step in enumerate(branch) if isinstance(step, Weighted)]
    for step in reversed(branch[weighted[-1] + 1 :]):  # shuffles behind the last stage
        ends = _behind(step.permutation(), ends) if isinstance(step, Shuffle) else ends
    found: list[tuple[Weighted, Ids, Ids]] = []
    here = np.arange(branch[0].in_features) % fabric.in_features
    for place, step in enumerate(branch[: weighted[-1] + 1]):
        if isinstance(step, Shuffle):
            here = here[step.permutation()]
            continue
        if place == weighted[-1]:
            there = ends
        else:
            there = nodes + np.arange(step.out_features)
            nodes += step.out_features
        found.append((step, here, there))
        here = there
    return found, nodes


def _behind(permutation: Ids, targets: Ids) -> Ids:
    """The nodes that a shuffle's inputs end at, from those of its outputs."""
    nodes = np.empty_like(targets)
    nodes[permutation] = targets
    return nodes
