"""Widths of cascades of graphs, where a graph takes certain widths only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from ..fabric import GraphStage, Step
from .base import Topology, check_range

__all__ = [
    "check_stages",
    "degrees",
    "lift_widths",
    "node_sizes",
    "node_widths",
    "rarely_doubled",
    "rounded",
]

MOST_STAGES = 16
"""Deeper cascades do not train, and seeds of stages lie this far apart."""


def check_stages(family: str, stages: object, highest: int = MOST_STAGES) -> int:
    """Check the option `stages`."""
    return check_range(family, "stages", stages, max(highest, MOST_STAGES))


_MOST_DOUBLED = 0.05


def rounded(width: int, multiple: int) -> int:
    """The next multiple that is not below a width.

    Example:
        >>> rounded(13, 4), rounded(12, 4)
        (16, 12)
    """
    return math.ceil(width / multiple) * multiple


def node_sizes(in_features: int, out_features: int) -> int:
    """How many nodes suit two widths: rounded up to multiples of them, they overshoot least.

    The narrower width where it divides the wider one.

    Example:
        >>> node_sizes(64, 256), node_sizes(12, 13), node_sizes(64, 100)
        (64, 13, 64)
    """
    narrow, wide = sorted((in_features, out_features))
    ratios = {wide // narrow, math.ceil(wide / narrow)}
    counts = ((max(narrow, math.ceil(wide / ratio)), ratio) for ratio in sorted(ratios))
    return min(counts, key=lambda pair: pair[0] ** 2 * pair[1])[0]


def node_widths(in_features: int, out_features: int, nodes: int, stages: int) -> tuple[int, ...]:
    """Widths along a cascade of graphs of nodes: the two sides rounded up, the nodes in between.

    Example:
        >>> node_widths(13, 28, 14, 3)
        (14, 14, 14, 28)
    """
    inner = (nodes,) * (stages - 1)
    return (rounded(in_features, nodes), *inner, rounded(out_features, nodes))


def lift_widths(in_features: int, out_features: int, degree: int, stages: int) -> tuple[int, ...]:
    """Widths along a cascade of random graphs of a degree, which overshoot the two sides least.

    A random graph joins `degree` classes of m inputs each, and its outputs are a multiple of m. The
    hidden width is not below the narrower side, so that it is no bottleneck, nor much above it,
    as every hidden feature costs `degree` weights.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        degree: weights per output, in_features / out_features to in_features.
        stages: graphs, 1 or more.

    Example:
        >>> lift_widths(64, 64, 8, 2), lift_widths(61, 61, 4, 1), lift_widths(256, 16, 20, 2)
        ((64, 64, 64), (64, 64), (300, 60, 18))
    """
    highest = min((2 * in_features - 1) // degree, out_features)
    sizes = np.arange(math.ceil(in_features / degree), highest + 1, dtype=np.int64)
    hidden, last = sizes * degree, sizes
    if stages > 1:
        common = np.lcm(sizes, degree)
        hidden = -(-min(in_features, out_features) // common) * common
        last = hidden // degree
    outputs = -(-out_features // last) * last
    overshoot = sizes * hidden * outputs
    best = int(np.where(last <= out_features, overshoot, overshoot.max() + 1).argmin())
    inner = (int(hidden[best]),) * (stages - 1)
    return (int(sizes[best]) * degree, *inner, int(outputs[best]))


def degrees(lowest: int, highest: int, ratio: float = 1.1) -> Iterator[int]:
    """Degrees that fill any budget well: all small ones, then even ones `ratio` apart.

    Example:
        >>> list(degrees(14, 40))
        [14, 15, 16, 24, 32, 40]
    """
    degree = lowest
    while degree < highest:
        yield degree
        larger = max(degree + 1, int(degree * ratio))
        degree = larger if larger <= 16 else rounded(larger, 8 if larger < 256 else 16)
    yield highest


def rarely_doubled(
    topologies: Iterable[Topology], in_features: int, out_features: int
) -> Iterator[Topology]:
    """Those whose wrap and fold make few weights join a pair of features that is joined already.

    The denser a graph, the more links a surplus feature shares with the feature that it stands for.
    The first one always stays, as the sparsest.
    """
    for number, topology in enumerate(topologies):
        (branch,) = topology.cascades(in_features, out_features)
        wrapped = (1 - in_features / branch[0].in_features) * _share(branch[0])
        folded = (1 - out_features / branch[-1].out_features) * _share(branch[-1])
        if number == 0 or wrapped + folded <= _MOST_DOUBLED:
            yield topology


def _share(step: Step) -> float:
    """The share of the inputs that an output reads."""
    return step.degree / step.in_features if isinstance(step, GraphStage) else 1.0
