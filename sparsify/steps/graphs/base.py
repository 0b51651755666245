"""What a generator of graphs is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError

__all__ = ["Graph", "Indices", "NodeGraph", "OffsetGraph", "Options", "no_options"]

Indices = npt.NDArray[np.int64]
Options = tuple[int, ...]


class Graph(ABC):
    """A rule that says which inputs each output reads, for some sizes and degrees."""

    @abstractmethod
    def check(self, in_features: int, out_features: int, degree: int, options: Options) -> None:
        """Raise `ConfigError` where there is no such graph."""

    @abstractmethod
    def neighbours(
        self, in_features: int, out_features: int, degree: int, options: Options, seed: int
    ) -> Indices:
        """The inputs of each output, (out_features, degree), different ones in a row."""


class NodeGraph(Graph):
    """A graph among nodes, with one or more neighbouring features per node.

    The narrower width has one feature per node; the wider one has `ratio` blocks of one feature per
    node each, so that feature i stands at node i modulo the number of nodes. An output reads all
    inputs that stand at the neighbours of its node.
    """

    @property
    def title(self) -> str:
        """What messages call it."""
        return type(self).__name__.lower()

    @abstractmethod
    def node_degree(self, nodes: int, options: Options) -> int | None:
        """Neighbours of a node, None where the user chooses.

        Raises:
            ConfigError: no such graph on that many nodes.
        """

    @abstractmethod
    def links(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """The neighbours of each node, (nodes, degree)."""

    def check(self, in_features: int, out_features: int, degree: int, options: Options) -> None:
        """See Graph."""
        nodes, wide = sorted((in_features, out_features))
        if wide % nodes:
            raise ConfigError(
                f"A {self.title} graph needs one width to be a multiple of the other; "
                f"got {in_features} and {out_features}."
            )
        per_node = in_features // nodes
        wanted = self.node_degree(nodes, options)
        allowed = f"{per_node * (wanted or 1)}"
        if wanted is None:
            fits = degree % per_node == 0 and 1 <= degree // per_node <= nodes
            allowed = f"1 to {nodes}"
            if per_node > 1:
                allowed = f"{per_node}, {2 * per_node}, ... {in_features}"
        else:
            fits = degree == wanted * per_node
        if not fits:
            raise ConfigError(
                f"A {self.title} graph {in_features} -> {out_features} has the degree {allowed}; "
                f"got {degree}."
            )

    def neighbours(
        self, in_features: int, out_features: int, degree: int, options: Options, seed: int
    ) -> Indices:
        """See Graph."""
        nodes = min(in_features, out_features)
        per_node = in_features // nodes
        links = self.links(nodes, degree // per_node, options, seed)
        reads = links[:, None, :] + nodes * np.arange(per_node)[None, :, None]
        return np.tile(reads.reshape(nodes, degree), (out_features // nodes, 1))


class OffsetGraph(NodeGraph):
    """A Cayley graph: every node is linked to itself moved by the same few offsets.

    Its spectrum is the Fourier transform of the offsets, by characters of its group.
    """

    @abstractmethod
    def offsets(self, nodes: int, degree: int, options: Options, seed: int) -> Indices:
        """How far each neighbour of a node is from it, (degree,), different ones."""


def no_options(title: str, options: Options) -> None:
    """Refuse options.

    Raises:
        ConfigError: there are some.
    """
    if options:
        raise ConfigError(f"A {title} graph takes no options; got {options}.")
