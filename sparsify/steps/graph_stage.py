"""Graph stages: biregular bipartite graphs whose neighbours are recomputed, never stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .check import check_positive
from .graphs import graph_named

__all__ = ["GraphStage"]


@dataclass(frozen=True, slots=True)
class GraphStage:
    """A sparse factor whose weights lie on the edges of a graph between inputs and outputs.

    Every output has `degree` different inputs, every input as many outputs as any other. The graph
    follows from the name of its generator and a few numbers.

    Args:
        graph: the generator, a name of `sparsify.steps.GRAPHS`.
        in_features: width of the input, 1 or more.
        out_features: width of the output, 1 or more.
        degree: weights per output, 1 to in_features.
        options: whole numbers that the generator takes, such as the sides of a torus.
        seed: of generators that draw; 0 for the others.
        kernel: spatial taps, e.g. (3, 3), where this is the spatial stage of a convolution.

    Raises:
        ConfigError: a number is out of range, or the generator cannot make such a graph.

    Example:
        >>> stage = GraphStage("random", 16, 16, 4, seed=1)
        >>> stage.parameters, stage.shape, stage.mask().sum(0).tolist() == [4] * 16
        (64, (16, 4), True)

    Reference:
        Sparse Neural Networks Topologies, arXiv 1706.05683.
    """

    graph: str
    in_features: int
    out_features: int
    degree: int
    options: tuple[int, ...] = ()
    seed: int = 0
    kernel: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers, and with the generator whether they go together."""
        check_positive(
            "A graph stage",
            in_features=self.in_features,
            out_features=self.out_features,
            degree=self.degree,
        )
        for name in ("options", "kernel"):
            if not isinstance(getattr(self, name), tuple):
                raise ConfigError(
                    f"The {name} of a graph stage are a tuple; got {getattr(self, name)!r}."
                )
        check_positive("A graph stage", **{f"kernel[{i}]": k for i, k in enumerate(self.kernel)})
        for number in (self.seed, *self.options):
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise ConfigError(
                    f"The seed and the options of a graph stage are whole numbers of 0 or more; "
                    f"got {number!r}."
                )
        graph_named(self.graph).check(
            self.in_features, self.out_features, self.degree, self.options
        )

    @property
    def taps(self) -> int:
        """Spatial taps in all, 1 for a stage without a kernel."""
        return math.prod(self.kernel)

    @property
    def parameters(self) -> int:
        """Weights, out_features * degree * taps."""
        return self.out_features * self.degree * self.taps

    @property
    def fan_in(self) -> int:
        """Weights that meet in one output, degree * taps."""
        return self.degree * self.taps

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight: (out_features, degree, *kernel)."""
        return (self.out_features, self.degree, *self.kernel)

    def neighbours(self) -> npt.NDArray[np.int64]:
        """The inputs that each output reads, (out_features, degree); weight k is for the k-th."""
        return _neighbours(
            self.graph, self.in_features, self.out_features, self.degree, self.options, self.seed
        )

    def mask(self) -> npt.NDArray[np.int64]:
        """The 0/1 support over channels, (out_features, in_features)."""
        matrix = np.zeros((self.out_features, self.in_features), np.int64)
        np.put_along_axis(matrix, self.neighbours(), 1, axis=1)
        return matrix

    def to_json(self) -> dict[str, Any]:
        """As an object: generator and numbers, no indices."""
        data: dict[str, Any] = {
            "graph": self.graph,
            "in": self.in_features,
            "out": self.out_features,
            "degree": self.degree,
        }
        for name in ("options", "kernel"):
            if getattr(self, name):
                data[name] = list(getattr(self, name))
        return {**data, "seed": self.seed} if self.seed else data

    @staticmethod
    def from_json(data: dict[str, Any]) -> GraphStage:
        """Read what `to_json` wrote."""
        options, kernel = (tuple(data.get(name, ())) for name in ("options", "kernel"))
        return GraphStage(
            data["graph"],
            data["in"],
            data["out"],
            data["degree"],
            options,
            data.get("seed", 0),
            kernel,
        )

    def __str__(self) -> str:
        """As "random:64->64 degree 8", with options, seed and kernel behind it where there are."""
        text = f"{self.graph}:{self.in_features}->{self.out_features} degree {self.degree}"
        text += f" {'x'.join(map(str, self.options))}" if self.options else ""
        text += f" seed {self.seed}" if self.seed else ""
        return text + ("@" + "x".join(map(str, self.kernel)) if self.kernel else "")


@lru_cache(maxsize=64)
def _neighbours(
    graph: str,
    in_features: int,
    out_features: int,
    degree: int,
    options: tuple[int, ...],
    seed: int,
) -> npt.NDArray[np.int64]:
    rows = graph_named(graph).neighbours(in_features, out_features, degree, options, seed)
    rows.flags.writeable = False
    return rows
