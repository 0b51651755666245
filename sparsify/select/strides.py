"""Strides of one-stage blocks along a graph, so that stacked layers mix."""

from __future__ import annotations

from ..fabric import Fabric, Stage
from ..topology import BlockDiagonal

__all__ = ["alternated", "follower"]


def alternated(fabric: Fabric, level: int) -> Fabric:
    """One stage of blocks with the stride that suits its place in the graph; others as they are.

    Aligned blocks in a row never mix. So every other layer has neighbouring features in its blocks,
    and those between take turns in the strides c, c**2, ...: the stages of a butterfly, after one
    cycle of which every feature has met every other. Two layers an odd number of levels apart, as
    skips join them, are never aligned.

    Args:
        fabric: what was chosen, with neighbouring features in a block.
        level: how many layers lie before this one.

    Example:
        >>> blocks = BlockDiagonal(blocks=32).build(256, 256)
        >>> [str(alternated(blocks, level).stages[0]) for level in range(4)]
        ['(32,8,8,1)', '(4,8,8,8)', '(32,8,8,1)', '(1,8,8,32)']
    """
    stage = fabric.stages[0]
    if level % 2 == 0 or not _is_aligned(fabric) or not isinstance(stage, Stage) or stage.a == 1:
        return fabric
    strides = _strides(stage.a, stage.c)
    stride = strides[level // 2 % len(strides)]
    whole = BlockDiagonal(stage.a, strided=True)
    apart = whole if stride == stage.a else BlockDiagonal(stage.a, stride=stride)
    return apart.build(fabric.in_features, fabric.out_features)


def follower(fabric: Fabric) -> Fabric | None:
    """The layer that a fabric is rated with: the one the planner would stack on it.

    Another of its kind where it is square; its transpose, as the second half of a block of layers,
    where it is not. One-stage blocks take the other stride.

    Returns:
        The fabric; None where there is none, as graphs and seeded shuffles have no transpose.

    Example:
        >>> str(follower(BlockDiagonal(blocks=4).build(16, 16)).stages[0])
        '(1,4,4,4)'
    """
    if fabric.in_features != fabric.out_features:
        if not all(isinstance(step, Stage) for branch in fabric.branches for step in branch):
            return None
        fabric = fabric.transposed()
    return alternated(fabric, 1)


def _is_aligned(fabric: Fabric) -> bool:
    stage = fabric.stages[0]
    return isinstance(stage, Stage) and fabric.branches == ((Stage(stage.a, stage.b, stage.c, 1),),)


def _strides(blocks: int, width: int) -> list[int]:
    """Divisors of the number of blocks up to itself, each at least `width` times the last."""
    strides: list[int] = []
    last = 1
    while last < blocks:
        wide = range(max(width, 2) * last, blocks + 1)
        last = next((stride for stride in wide if blocks % stride == 0), blocks)
        strides.append(last)
    return strides
