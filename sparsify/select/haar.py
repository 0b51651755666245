"""How near a fabric comes to an orthogonal matrix, in a millisecond, to choose among hundreds.

The score `reconstruction_haar` samples blocks; here the sampled law is replaced by its limit for
large blocks, and the counts that need a graph by closed forms.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np

from ..fabric import Branch, Fabric, Stage
from .score.cells import cells_of
from .score.reconstruction import law, reconstruction_haar

__all__ = ["fast_haar", "jacobi_tail"]


@lru_cache(maxsize=16384)
def fast_haar(fabric: Fabric) -> float:
    """Expected min ||T - fabric||^2 / ||T||^2 for a random (semi-)orthogonal matrix T.

    Wrap and fold are left out. Without them within 0.02 of `reconstruction_haar` up to two
    Kronecker-sparse stages and 0.12 beyond; with them within 0.2 in our tests. For fabrics with
    graphs, shuffles or several branches it is the score itself.

    Example:
        >>> from sparsify.topology import Monarch
        >>> round(fast_haar(Monarch(blocks=64).build(4096, 4096)), 3)
        0.942
    """
    branch = fabric.branches[0]
    if len(fabric.branches) > 1 or not all(isinstance(step, Stage) for step in branch):
        return reconstruction_haar(fabric)
    inputs, outputs = branch[0].in_features, branch[-1].out_features
    if len(branch) == 1:
        return 1 - fabric.parameters / (inputs * outputs)
    plain = Fabric(inputs, outputs, (tuple(_without_taps(branch)),))
    cells = cells_of(plain)
    if cells is None:
        return _by_law(plain)
    kept = sum(
        count
        * cells.outputs
        * cells.inputs
        * (1 - jacobi_tail(cells.outputs, cells.inputs, k, max(inputs, outputs)))
        for k, count in zip(cells.links, cells.counts, strict=True)
    )
    return max(0.0, 1 - kept / (inputs * outputs))


@lru_cache(maxsize=4096)
def jacobi_tail(outputs: int, inputs: int, rank: int, size: int) -> float:
    """Share of the energy of a block of a large Haar matrix beyond its best rank-`rank` part.

    The squared singular values of an (outputs, inputs) block of an orthogonal (size, size) matrix
    follow the Jacobi law (Wachter 1980) when all sizes are large; blocks of 4 are 0.01 off.

    Example:
        >>> round(jacobi_tail(64, 64, 1, 4096), 3), jacobi_tail(64, 64, 16, 64)
        (0.942, 0.75)
    """
    rows, columns = outputs / size, inputs / size
    narrow, kept = min(rows, columns), rank / size
    if kept >= narrow:
        return 0.0
    ones = max(0.0, rows + columns - 1)  # singular values that are exactly one
    if kept <= ones or ones == narrow:
        return 1 - kept / (rows * columns)
    spread = [math.sqrt(rows * (1 - columns)), math.sqrt(columns * (1 - rows))]
    low, high = (spread[0] - spread[1]) ** 2, sum(spread) ** 2
    angle = (np.arange(_POINTS) + 0.5) / _POINTS * math.pi / 2
    square = low + (high - low) * np.sin(angle) ** 2
    density = (high - low) ** 2 * (np.sin(angle) * np.cos(angle)) ** 2 / (square * (1 - square))
    mass = np.cumsum(density) / (2 * _POINTS)
    energy = np.cumsum(density * square) / (2 * _POINTS)
    lost = np.interp(narrow - kept, np.append(0, mass), np.append(0, energy))
    return float(lost / (rows * columns))


_POINTS = 1000


def _without_taps(branch: Branch) -> list[Stage]:
    return [Stage(s.a, s.b, s.c, s.d) for s in branch if isinstance(s, Stage)]


def _by_law(fabric: Fabric) -> float:
    """The law of the score, with dimension and connected pairs in closed form."""
    (branch,) = fabric.branches
    stages = [step for step in branch if isinstance(step, Stage)]
    inner = itertools.pairwise(stages)
    gauge = sum(_interchangeable(before, after) for before, after in inner)
    reached = min(1.0, math.prod(stage.c for stage in stages) / fabric.in_features)
    return law(fabric, reached, max(1, fabric.parameters - gauge))


def _interchangeable(before: Stage, after: Stage) -> int:
    """Ordered pairs of hidden features that read one block and write one block."""
    index = np.arange(before.out_features)
    writes = index // (before.b * before.d) * before.d + index % before.d
    reads = index // (after.c * after.d) * after.d + index % after.d
    _, counts = np.unique(writes * (after.a * after.d) + reads, return_counts=True)
    return int((counts**2).sum())
