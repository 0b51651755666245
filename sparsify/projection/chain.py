"""A branch with its weights: products, scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..fabric import Fabric
from .links import BlockLink, GraphLink, links_of

__all__ = ["Chain", "chains_of"]

Matrix = npt.NDArray[np.float64]

_ROUNDS = 4


@dataclass(eq=False)
class Chain:
    """The links of a branch with weights in their own form, changed in place by the solvers."""

    links: tuple[BlockLink | GraphLink, ...]
    weights: list[Matrix]

    def forward(self, x: Matrix, start: int = 0) -> Matrix:
        """Apply the links from `start` on to columns of features."""
        for link, weight in zip(self.links[start:], self.weights[start:], strict=True):
            x = link.forward(weight, x)
        return x

    def backward(self, g: Matrix, start: int = 0) -> Matrix:
        """Apply the transposes of the links from `start` on, last first."""
        for place in reversed(range(start, len(self.links))):
            g = self.links[place].backward(self.weights[place], g)
        return g

    def balance(self) -> None:
        """Give each hidden feature as much weight before it as behind it; the product stays.

        For two stages this splits every singular value evenly. Features without weight on one side
        are left alone.
        """
        for _ in range(_ROUNDS if len(self.links) > 2 else 1):
            for place in range(len(self.links) - 1):
                _, entering = self.links[place].norms(self.weights[place])
                leaving, _ = self.links[place + 1].norms(self.weights[place + 1])
                alive = (entering > 0) & (leaving > 0)
                ratio = np.divide(leaving, entering, out=np.ones_like(entering), where=alive)
                scale = ratio**0.25
                self._scale(place, None, scale)
                self._scale(place + 1, 1 / scale, None)

    def _scale(self, place: int, sources: Matrix | None, sinks: Matrix | None) -> None:
        link = self.links[place]
        before = np.ones(link.sources) if sources is None else sources
        behind = np.ones(link.sinks) if sinks is None else sinks
        self.weights[place] = link.scaled(self.weights[place], before, behind)

    def factors(self) -> list[Matrix]:
        """The weights in the shapes of the stages."""
        pairs = zip(self.links, self.weights, strict=True)
        return [link.to_factor(weight) for link, weight in pairs]


def chains_of(fabric: Fabric, factors: Sequence[Matrix], coloured: bool = False) -> list[Chain]:
    """The branches of a fabric with given factors.

    Args:
        fabric: what they belong to.
        factors: one per stage, of `stage.shape`.
        coloured: whether the inputs have a covariance, see `links_of`.

    Example:
        >>> from sparsify.fabric import Fabric, Stage
        >>> fabric = Fabric(2, 3, ((Stage(1, 3, 2, 1),),))
        >>> chains_of(fabric, [np.ones((1, 1, 3, 2))])[0].forward(np.eye(2)).tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    chains, rest = [], iter(factors)
    for branch in fabric.branches:
        links = links_of(fabric, branch, coloured)
        chains.append(Chain(links, [link.from_factor(next(rest)) for link in links]))
    return chains
