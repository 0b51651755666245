"""What a layer does, counted: the quantities that its time is a sum of.

Each law of a `LatencyModel` gives one cost, in seconds, to each of these counts. No count falls
when there are more rows, so no prediction does.
"""

from __future__ import annotations

from functools import lru_cache

from ..fabric import Branch, Fabric, GraphStage, Shuffle, Stage
from ..steps.fitting import fitting

__all__ = [
    "CONVOLUTION",
    "DENSE",
    "FABRIC",
    "GRAPH",
    "Terms",
    "convolution_terms",
    "dense_convolution_terms",
    "dense_terms",
    "fabric_terms",
    "graph_stages",
    "graph_terms",
]

Terms = tuple[float, ...]

LEVELS = (2**15, 2**18, 2**22)
"""Weights that nearest memory, a core's cache, and the caches of most machines hold."""

SHORT_RUN = 16
"""Features of a block below which it is copied feature by feature: 64 bytes, a line of cache."""

TINY_BLOCK = 16
"""Weights of a block up to which matrix libraries take a plain loop."""

VECTOR = 16
"""Numbers of float32 in the widest vectors; groups of other sizes are copied first."""

DENSE = ("calls", "inputs", "outputs", "weights", *(f"weights over {n}" for n in LEVELS))
FABRIC = (
    "calls",
    "further branches",
    "steps",
    "blocks",
    "blocks times widest",
    "block inputs",
    "block outputs",
    "weights",
    "weights in tiny blocks",
    "strided inputs",
    "strided outputs",
    "short runs in",
    "short runs out",
    "features shuffled, wrapped or folded",
    "features at both ends",
)
GRAPH = ("calls", "dense weights", "weights", "multiply-adds", "inputs", "outputs")
CONVOLUTION = (
    "dense calls",
    "fabric calls",
    "steps",
    "spatial calls",
    "spatial weights",
    "spatial inputs",
    "spatial outputs",
    "spatial multiply-adds",
    "pointwise multiply-adds",
    "spatial inputs times taps, uneven groups",
    "spatial inputs times taps",
    "spatial groups times taps",
    "swapped features",
    "mixing inputs",
    "mixing outputs",
    "mixing multiply-adds",
    "mixing blocks",
    "strided mixing outputs",
    "features moved",
)
_SWAPPED = CONVOLUTION.index("swapped features")


def dense_terms(in_features: int, out_features: int) -> Terms:
    """Counts of a dense layer, by the names of `DENSE`.

    Example:
        >>> dense_terms(4, 2)[:5]
        (1, 4, 2, 8, 0)
    """
    weights = in_features * out_features
    return (1, in_features, out_features, weights, *(max(0, weights - n) for n in LEVELS))


@lru_cache(maxsize=8192)
def fabric_terms(fabric: Fabric) -> Terms:
    """Counts of a fabric's Kronecker-sparse stages and shuffles, by the names of `FABRIC`.

    Example:
        >>> dict(zip(FABRIC, fabric_terms(Fabric(8, 8, ((Stage(2, 4, 4, 1),),)))))["weights"]
        32
    """
    steps = [step for branch in fabric.branches for step in branch]
    stages = [step for step in steps if isinstance(step, Stage)]
    heads = [branch[0] for branch in fabric.branches if isinstance(branch[0], Stage)]
    tails = [branch[-1] for branch in fabric.branches if isinstance(branch[-1], Stage)]
    blocks = sum(s.a * s.d for s in stages)
    widest = max(max(s.in_features, s.out_features) for s in steps)
    return (
        1,
        len(fabric.branches) - 1,
        len(steps) - len(graph_stages(fabric)),
        blocks,
        blocks * widest,
        sum(s.in_features for s in stages),
        sum(s.out_features for s in stages),
        sum(s.parameters for s in stages),
        sum(s.parameters for s in stages if s.b * s.c <= TINY_BLOCK),
        sum(s.in_features for s in heads if s.d > 1),
        sum(s.out_features for s in tails if s.d > 1),
        sum(s.a * s.d for s in heads if s.c < SHORT_RUN),
        sum(s.a * s.d for s in tails if s.b < SHORT_RUN),
        sum(_moved(branch, fabric) for branch in fabric.branches),
        fabric.in_features + fabric.out_features,
    )


def graph_stages(fabric: Fabric) -> tuple[GraphStage, ...]:
    """The graph stages of a fabric, which run as dense matrices.

    Example:
        >>> graph_stages(Fabric(8, 8, ((Stage(2, 4, 4, 1),),)))
        ()
    """
    return tuple(stage for stage in fabric.stages if isinstance(stage, GraphStage))


def graph_terms(stage: GraphStage, rows: int) -> Terms:
    """Counts of a graph stage, which becomes a dense matrix at every call, by the names of `GRAPH`.

    Args:
        stage: the stage.
        rows: input vectors; 0 for what it takes to make the matrix.

    Example:
        >>> graph_terms(GraphStage("hypercube", 8, 8, 3), 2)
        (1, 64, 24, 128, 16, 16)
    """
    dense = stage.in_features * stage.out_features * stage.taps
    inputs, outputs = stage.in_features * rows, stage.out_features * rows
    return (1, dense, stage.parameters, dense * rows, inputs, outputs)


def dense_convolution_terms(
    in_features: int, out_features: int, taps: int, groups: int, rows: int, in_rows: int
) -> Terms:
    """Counts of a dense convolution, by the names of `CONVOLUTION`.

    Args:
        in_features: channels of the input, all groups.
        out_features: channels of the output.
        taps: spatial taps, all axes.
        groups: groups of channels.
        rows: positions of the output, all samples.
        in_rows: positions of the input.

    Example:
        >>> dense_convolution_terms(4, 4, 9, 1, 64, 64)[7]
        9216
    """
    return (
        1,
        0,
        0,
        *_spatial(in_features, out_features, taps, groups, rows, in_rows),
        *(0 for _ in CONVOLUTION[_SWAPPED:]),
    )


@lru_cache(maxsize=8192)
def convolution_terms(fabric: Fabric, rows: int, in_rows: int, transposed: bool = False) -> Terms:
    """Counts of a convolution's fabric, graph stages left out, by the names of `CONVOLUTION`.

    A transposed convolution does what the other does the other way round.

    Example:
        >>> fabric = Fabric(4, 4, ((Stage(1, 4, 4, 1, (3, 3)),),))
        >>> convolution_terms(fabric, 64, 64)[7]
        9216
    """
    parts = [_branch_terms(branch, fabric, rows, in_rows, transposed) for branch in fabric.branches]
    return (0, 1, *(sum(column) for column in zip(*parts, strict=True)))


def _branch_terms(
    branch: Branch, fabric: Fabric, rows: int, in_rows: int, transposed: bool
) -> Terms:
    """What comes after the calls; steps before the spatial one see the input's positions."""
    spatial: Terms = (0.0,) * (_SWAPPED - 3)
    swapped = inputs = outputs = products = blocks = strided = moved = 0
    positions = in_rows if fabric.kernel or transposed else rows
    for step in branch:
        if step.kernel:
            positions = rows
        if not isinstance(step, Stage):
            moved += step.in_features * positions if isinstance(step, Shuffle) else 0
        elif step.kernel:
            groups = step.a * step.d
            b, c, paired = fitting(step)
            channels, images = (groups * c, groups * b), (rows, in_rows)
            if transposed:
                channels, images = channels[::-1], images[::-1]
            spatial = _spatial(*channels, step.taps, groups // (2 if paired else 1), *images)
            swapped += _swapped(step.in_features, step.c, step.d, c) * in_rows
            swapped += _swapped(step.out_features, step.b, step.d, b) * rows
        else:
            inputs += step.in_features * positions
            outputs += step.out_features * positions
            products += step.parameters * positions
            blocks += step.a * step.d * positions
            strided += step.out_features * positions if step.d > 1 else 0
    moved += _surplus(branch[0].in_features, fabric.in_features) * in_rows
    moved += _surplus(branch[-1].out_features, fabric.out_features) * rows
    steps = sum(not isinstance(step, GraphStage) for step in branch)
    return (steps, *spatial, swapped, inputs, outputs, products, blocks, strided, moved)


def _spatial(
    in_features: int, out_features: int, taps: int, groups: int, rows: int, in_rows: int
) -> Terms:
    weights = in_features * out_features * taps // groups
    block = (in_features // groups, out_features // groups)
    is_uneven = groups > 1 and max(block) > 1 and any(size % VECTOR for size in block)
    is_matrix = taps == groups == 1  # one matrix product, without what a convolution sets up
    return (
        0 if is_matrix else 1,
        weights,
        in_features * in_rows,
        out_features * rows,
        0 if is_matrix else weights * rows,
        weights * rows if is_matrix else 0,
        in_features * taps * rows if is_uneven else 0,
        in_features * taps * rows,
        groups * taps * rows,
    )


def _moved(branch: Branch, fabric: Fabric) -> int:
    """Features that are copied once more, per row."""
    return (
        sum(step.size for step in branch if isinstance(step, Shuffle))
        + _surplus(branch[0].in_features, fabric.in_features)
        + _surplus(branch[-1].out_features, fabric.out_features)
    )


def _surplus(width: int, features: int) -> int:
    return width if width != features else 0


def _swapped(features: int, block: int, depth: int, filled: int) -> int:
    """Channels that a grouped convolution needs in another order, or with zeros between."""
    return features if (depth > 1 and block > 1) or filled != block else 0
