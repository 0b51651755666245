"""What a fabric must have before its score counts: rank, connectivity, few stages."""

from __future__ import annotations

import math
from functools import lru_cache, reduce

import numpy as np
import numpy.typing as npt

from ..fabric import Branch, Fabric, GraphStage, Shuffle, Stage, Step, Weighted

__all__ = ["depth", "most_stages", "rank", "reaches_all"]

Indices = npt.NDArray[np.int64]
Reached = npt.NDArray[np.uint8]

_FOLLOWED = 1024  # inputs, of fabrics with graphs


def most_stages(in_features: int, out_features: int) -> int:
    """Stages beyond which depth costs more than it connects: 3, above 4096 features 4."""
    return 3 if max(in_features, out_features) <= 4096 else 4


def depth(fabric: Fabric) -> int:
    """Stages on the longest way from an input to an output."""
    return max(sum(isinstance(step, Weighted) for step in branch) for branch in fabric.branches)


@lru_cache(maxsize=8192)
def rank(fabric: Fabric) -> int:
    """Independent signals that pass: exact, computed only where wrap or graphs leave it open."""
    if fabric.repeats and len(fabric.branches) == 1:
        return fabric.width
    from .score.rank import generic_rank

    return int(generic_rank(fabric))


@lru_cache(maxsize=8192)
def reaches_all(fabric: Fabric) -> bool:
    """Whether paths lead from every input to every output.

    In Kronecker-sparse stages all inputs are alike, so it is enough to follow the first one; what
    wrap and fold may connect on top does not count. In graphs every input is followed, of large
    ones a sample of 64.

    Example:
        >>> from sparsify.topology import BlockDiagonal, Monarch
        >>> reaches_all(Monarch(blocks=4).build(16, 16))
        True
        >>> reaches_all(BlockDiagonal(blocks=4).build(16, 16))
        False
    """
    fan_ins = (
        math.prod(step.fan_in for step in branch if isinstance(step, Weighted))
        for branch in fabric.branches
    )
    if sum(fan_ins) < fabric.in_features:
        return False
    if all(isinstance(step, (Stage, Shuffle)) for branch in fabric.branches for step in branch):
        return any(_follow(branch, np.zeros(1, np.int64)).all() for branch in fabric.branches)
    count = fabric.in_features
    inputs = np.arange(count) if count <= _FOLLOWED else np.arange(0, count, -(-count // 64))
    reached = reduce(
        np.bitwise_or, (_outputs(branch, inputs, fabric) for branch in fabric.branches)
    )
    return bool(np.unpackbits(reached, axis=1)[:, : len(inputs)].all())


def _outputs(branch: Branch, inputs: Indices, fabric: Fabric) -> Reached:
    """Who of some inputs reaches each output, wrap and fold included."""
    reached = _follow(branch, inputs)
    again = inputs + fabric.in_features
    again = np.where(again < branch[0].in_features, again, inputs)
    if (again != inputs).any():
        reached = reached | _follow(branch, again)
    surplus = branch[-1].out_features - fabric.out_features
    folded = reached[: fabric.out_features].copy()
    folded[:surplus] |= reached[fabric.out_features :]
    return folded


def _follow(branch: Branch, inputs: Indices) -> Reached:
    """Who of some inputs of the first step reaches each feature behind the last, as bits."""
    start = np.zeros((branch[0].in_features, len(inputs)), bool)
    start[inputs, np.arange(len(inputs))] = True
    return reduce(_spread, branch, np.packbits(start, axis=1))


def _spread(reached: Reached, step: Step) -> Reached:
    """Who reaches the features behind a step: (features, inputs as bits)."""
    if isinstance(step, Shuffle):
        return reached[step.permutation()]
    if isinstance(step, GraphStage):
        columns = step.neighbours().T
        return reduce(np.bitwise_or, (reached[column] for column in columns))
    blocks = np.bitwise_or.reduce(reached.reshape(step.a, step.c, step.d, -1), axis=1)
    return np.repeat(blocks[:, None], step.b, axis=1).reshape(step.out_features, -1)
