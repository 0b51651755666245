"""Which fabric for one layer, without data: fill the budget, then follow the defaults per regime.

Reference: NeuroFabric, arXiv 2002.08339 (rating topologies before training).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from ..fabric import Fabric, Stage
from ..topology import TOPOLOGIES, BlockDiagonal, Topology

__all__ = ["AUTO", "alternated", "automatic", "fit"]

AUTO = "auto"
"""The name that leaves the family to the heuristic."""

Usage = Callable[[Fabric], float]
"""The share of the budget that a fabric uses; above 1 it does not fit."""

# Blocks of even sizes run faster than wrapped ones; worth this much of the budget.
_EXACT_IS_WORTH = 0.6


def fit(
    family: str,
    in_features: int,
    out_features: int,
    usage: Usage,
    *,
    exact: bool = False,
) -> Fabric | None:
    """The best fabric of a family that fits into a budget.

    Best is: as many independent signals as possible, then blocks without wrap and of sizes that
    kernels like, then as many parameters as the budget allows, as few stages, as wide a waist.

    Args:
        family: a name of `topologies()`.
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.
        usage: share of the budget that a fabric uses.
        exact: allow no wrap and fold (a grouped layer must not mix its groups).

    Returns:
        The fabric, or None where none fits.

    Example:
        >>> fabric = fit("monarch", 256, 256, lambda fabric: fabric.density / 0.25)
        >>> fabric.density
        0.25
    """
    fabrics = [
        fabric
        for topology in TOPOLOGIES[family].candidates(in_features, out_features)
        if (fabric := _grown(topology, in_features, out_features, usage))
        and (fabric.is_exact or not exact)
    ]
    if not fabrics:
        return None
    widest = max(fabric.width for fabric in fabrics)
    used = {fabric: usage(fabric) for fabric in fabrics if fabric.width == widest}
    even = [
        fabric
        for fabric in used
        if fabric.is_exact and used[fabric] >= _EXACT_IS_WORTH * max(used.values())
    ]
    return max(
        even or used,
        key=lambda f: (_is_aligned(f), round(used[f], 3), -len(f.stages), _openness(f)),
    )


def automatic(
    in_features: int,
    out_features: int,
    usage: Usage,
    *,
    exact: bool = False,
) -> Fabric | None:
    """The default family per regime of the budget (arguments as for `fit`).

    A Monarch fabric whose hidden layer is as wide as the narrower side, where the budget allows one
    (2 n**1.5 parameters for a square n); else blocks of one stage, whose strides take turns along
    the graph (see `alternated`); else, where even these do not fit, the widest low-rank pair.

    Example:
        >>> automatic(1024, 1024, lambda fabric: fabric.density / 0.1).family
        'monarch(blocks_in=16, blocks_out=32, links=2)'
        >>> automatic(256, 256, lambda fabric: fabric.density / 0.05).family
        'block_diagonal(blocks=32)'
    """
    narrow = min(in_features, out_features)
    for family, least in (("monarch", narrow), ("block_diagonal", narrow), ("low_rank", 1)):
        fabric = fit(family, in_features, out_features, usage, exact=exact)
        if fabric is not None and fabric.width >= least:
            return fabric
    return None


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
    one_stage = ((Stage(stage.a, stage.b, stage.c, 1),),)
    if level % 2 == 0 or stage.a == 1 or fabric.branches != one_stage:
        return fabric
    strides = _strides(stage.a, stage.c)
    stride = strides[level // 2 % len(strides)]
    whole = BlockDiagonal(stage.a, strided=True)
    apart = whole if stride == stage.a else BlockDiagonal(stage.a, stride=stride)
    return apart.build(fabric.in_features, fabric.out_features)


def _strides(blocks: int, width: int) -> list[int]:
    """Divisors of the number of blocks up to itself, each at most `width` times the last."""
    divisors = [stride for stride in range(2, blocks + 1) if blocks % stride == 0]
    strides: list[int] = []
    last = 1
    while last < blocks:
        last = max((s for s in divisors if last < s <= width * last), default=blocks)
        strides.append(last)
    return strides


def _grown(topology: Topology, in_features: int, out_features: int, usage: Usage) -> Fabric | None:
    """The fabric with its growing option as high as the budget allows; None if none fits."""
    for candidate in _sizes(topology, in_features, out_features, usage):
        fabric = candidate.build(in_features, out_features)
        if usage(fabric) <= 1:
            return fabric
    return None


def _sizes(
    topology: Topology, in_features: int, out_features: int, usage: Usage
) -> Iterator[Topology]:
    if topology.grows is not None:
        unit = usage(topology.build(in_features, out_features))
        count = (
            min(math.ceil(1 / unit), topology.most(in_features, out_features)) if unit <= 1 else 0
        )
        for size in (count, count - 1):
            if size > 1:
                yield dataclasses.replace(topology, **{topology.grows: size})
    yield topology


def _is_aligned(fabric: Fabric) -> bool:
    """Whether every block is a multiple of 8 both ways, as vector units like it."""
    return all(stage.b % 8 == 0 and stage.c % 8 == 0 for stage in fabric.stages)


def _openness(fabric: Fabric) -> float:
    """Higher for wider hidden layers: narrow ones add up like resistors in series."""
    inner = [step.out_features for branch in fabric.branches for step in branch[:-1]]
    return -sum(1 / width for width in inner)
