"""Cut bandwidth: how much of a half of the inputs gets through to a half of the outputs."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ...fabric import Fabric
from ...quiet import load_scipy
from .layered import LayeredGraph, layered

__all__ = ["cut_bandwidth"]

Ids = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint64]

_UNLIMITED = 2**30


@lru_cache(maxsize=1024)
def cut_bandwidth(fabric: Fabric) -> float:
    """The least rank from a structured half of the inputs to one of the outputs, per feature.

    Halves are the first, the last, the even and the odd features; the rank of such a quarter of the
    matrix is generic, and divided by its smaller side. 1 is a dense matrix; 0 says that two halves
    never meet. Exact: the rank is a maximum flow in which a feature passes one unit (Lindstrom,
    Gessel and Viennot), and features that no colour refinement tells apart share their flow evenly,
    so that they are one vertex of the flow.

    Example:
        >>> from sparsify.topology import Monarch
        >>> cut_bandwidth(Monarch(blocks=8).build(64, 64))
        0.5
    """
    graph = layered(fabric)
    if min(graph.inputs, graph.outputs) < 2:
        return 1.0
    colours, hub_colours = _refined(graph)
    network = _Network(graph, colours, hub_colours)
    bandwidth = 1.0
    for sources, sinks in itertools.product(_halves(graph.inputs), _halves(graph.outputs)):
        side = min(int(sources.sum()), int(sinks.sum()))
        bandwidth = min(bandwidth, network.flow(sources, sinks) / side)
        if bandwidth == 0:
            break
    return bandwidth


def _halves(width: int) -> tuple[npt.NDArray[np.bool_], ...]:
    index = np.arange(width)
    return index < width // 2, index >= width - width // 2, index % 2 == 0, index % 2 == 1


def _refined(graph: LayeredGraph) -> tuple[Ids, Ids]:
    """The coarsest classes of nodes, and of hubs, alike in halves and in neighbours' classes."""
    codes: Codes = np.full(graph.nodes, 3, np.uint64)
    for start, width, kind in ((0, graph.inputs, 1), (graph.inputs, graph.outputs, 2)):
        marks = sum(
            (half.astype(np.uint64) << np.uint64(k)) for k, half in enumerate(_halves(width))
        )
        codes[start : start + width] = _mixed(marks + np.uint64(16 * kind))
    reads, writes, direct = (m.astype(np.uint64) for m in (graph.reads, graph.writes, graph.direct))
    count = 0
    while True:
        hubs = _mixed(reads @ codes) + _mixed(writes @ _mixed(codes))
        classes, colours = np.unique(codes, return_inverse=True)
        if classes.size == count:
            return colours, np.unique(hubs, return_inverse=True)[1]
        count = classes.size
        entering = writes.T @ hubs + direct @ codes
        leaving = reads.T @ hubs + direct.T @ codes
        codes = _mixed(codes + _mixed(entering + _mixed(leaving)))


def _mixed(codes: Any) -> Codes:
    """Scramble 64 bits (splitmix64), so that sums of codes tell multisets apart."""
    codes = np.asarray(codes, np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        codes = (codes ^ (codes >> np.uint64(shift))) * np.uint64(factor)
    mixed: Codes = codes ^ (codes >> np.uint64(31))
    return mixed


class _Network:
    """The flow among classes: a class passes as many units as it has nodes, a hub any number."""

    def __init__(self, graph: LayeredGraph, colours: Ids, hub_colours: Ids) -> None:
        self.inputs = colours[: graph.inputs]
        self.outputs = colours[graph.inputs : graph.inputs + graph.outputs]
        sizes = np.bincount(colours)
        self.classes = sizes.size
        ends = np.arange(self.classes)
        leaving = ends + self.classes
        hubs = 2 * self.classes + hub_colours
        read, written, direct = (
            part.tocoo().coords for part in (graph.reads, graph.writes, graph.direct)
        )
        pairs = np.concatenate(
            [
                np.stack([leaving[colours[read[1]]], hubs[read[0]]], axis=1),
                np.stack([hubs[written[0]], colours[written[1]]], axis=1),
                np.stack([leaving[colours[direct[1]]], colours[direct[0]]], axis=1),
            ]
        )
        self.vertices = 2 * self.classes + int(hub_colours.max(initial=-1)) + 3
        codes = np.unique(pairs[:, 0] * self.vertices + pairs[:, 1])
        self.tails = np.concatenate([ends, codes // self.vertices])
        self.heads = np.concatenate([leaving, codes % self.vertices])
        self.limits = np.concatenate([sizes, np.full(codes.size, _UNLIMITED)])

    def flow(self, sources: npt.NDArray[np.bool_], sinks: npt.NDArray[np.bool_]) -> int:
        """Most units from the source inputs to the sink outputs."""
        load_scipy()
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow

        entries, exits = np.unique(self.inputs[sources]), np.unique(self.outputs[sinks])
        source, sink = self.vertices - 2, self.vertices - 1
        tails = np.concatenate([self.tails, np.full(entries.size, source), exits + self.classes])
        heads = np.concatenate([self.heads, entries, np.full(exits.size, sink)])
        limits = np.concatenate([self.limits, np.full(entries.size + exits.size, _UNLIMITED)])
        matrix = csr_array(
            (limits.astype(np.int32), (tails, heads)), shape=(self.vertices, self.vertices)
        )
        return int(maximum_flow(matrix, source, sink).flow_value)
