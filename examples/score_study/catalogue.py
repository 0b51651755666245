"""The fabrics that compete: about two dozen of equal size at each budget, from all families."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from sparsify.fabric import Branch, Fabric, GraphStage, Shuffle, Stage
from sparsify.select.strides import follower
from sparsify.topology import BlockDiagonal, Butterfly, Clos, LowRank, Monarch

__all__ = ["Entry", "catalogue"]

Entry = tuple[str, Fabric, Fabric]
"""Name, fabric, and what stands in the second layer: the planner's mate, unless "aligned"."""


def catalogue(width: int, budget: int) -> list[Entry]:
    """The fabrics of a budget.

    Args:
        width: of the layers, 64 or 256.
        budget: weights of a layer.

    Example:
        >>> len(catalogue(64, 768)) > 20
        True
    """
    entries = []
    for name, fabric in _fabrics(width, budget):
        if name.startswith("blocks, aligned"):
            entries.append((name, fabric, fabric))
        else:
            entries.append((name, fabric, follower(fabric) or fabric))
    return entries


def _fabrics(n: int, budget: int) -> Iterator[tuple[str, Fabric]]:
    named = _SETTINGS[n, budget]
    for family, settings in named.items():
        for setting in settings:
            name = f"{family} {'.'.join(map(str, setting))}"
            yield name.strip(), _MAKERS[family](n, *setting)


def _graphs(n: int, stages: int, graph: str, degree: int, options: tuple[int, ...] = ()) -> Fabric:
    seeded = graph in ("circulant", "xor", "random")
    return _cascade(
        n,
        *(GraphStage(graph, n, n, degree, options, s + 1 if seeded else 0) for s in range(stages)),
    )


def _cascade(n: int, *steps: Stage | GraphStage | Shuffle) -> Fabric:
    return Fabric(n, n, (steps,))


def _blocks(n: int, blocks: int) -> Fabric:
    return BlockDiagonal(blocks).build(n, n)


def _shuffled(n: int, blocks: int) -> Fabric:
    side = math.ceil(n / blocks)
    return _cascade(n, Shuffle(blocks * side, seed=1), Stage(blocks, side, side, 1))


def _twice(n: int, *radices: int) -> Fabric:
    steps = Butterfly(radices=radices).build(n, n).branches[0]
    return _cascade(n, *steps, *steps)


def _parallel(n: int, branches: int, *radices: int) -> Fabric:
    first: Branch = Butterfly(radices=radices).build(n, n).branches[0]
    others = ((Shuffle(n, seed=seed), *first) for seed in range(1, branches))
    return Fabric(n, n, (first, *others))


def _random(n: int, *degrees: int) -> Fabric:
    stages = (GraphStage("random", n, n, d, seed=s + 1) for s, d in enumerate(degrees))
    return _cascade(n, *stages)


def _radix_net(n: int, *radices: int) -> Fabric:
    steps, step = [], 1
    for radix in radices:
        steps.append(GraphStage("radix", n, n, radix, (radix, step)))
        step = step * radix % n or 1
    return _cascade(n, *steps)


def _torus(n: int, stages: int, *dims: int) -> Fabric:
    degree = 1 + sum(0 if side == 1 else 1 if side == 2 else 2 for side in dims)
    return _graphs(n, stages, "torus", degree, dims)


_MAKERS: dict[str, Callable[..., Fabric]] = {
    "blocks": _blocks,
    "blocks, aligned": _blocks,
    "blocks, shuffled": _shuffled,
    "low rank": lambda n, rank: LowRank(rank).build(n, n),
    "monarch": lambda n, i, o, k: Monarch.of(i, o, k).build(n, n),
    "clos": lambda n, r, m: Clos(r, m).build(n, n),
    "clos, uneven": lambda n, r, m, e: Clos(r, m, e).build(n, n),
    "butterfly": lambda n, *radices: Butterfly(radices=radices).build(n, n),
    "butterfly, twice": _twice,
    "parallel butterfly": _parallel,
    "random": _random,
    "circulant": lambda n, stages, degree: _graphs(n, stages, "circulant", degree),
    "xor": lambda n, stages, degree: _graphs(n, stages, "xor", degree),
    "torus": _torus,
    "hypercube": lambda n, stages: _graphs(n, stages, "hypercube", n.bit_length() - 1),
    "band": lambda n, degree: _graphs(n, 1, "radix", degree, (degree, 1)),
    "radix net": _radix_net,
}

_SETTINGS: dict[tuple[int, int], dict[str, list[tuple[int, ...]]]] = {
    (64, 384): {
        "blocks": [(11,)],
        "blocks, aligned": [(11,)],
        "blocks, shuffled": [(11,)],
        "low rank": [(3,)],
        "monarch": [(2, 4, 1), (4, 2, 1), (3, 3, 1), (2, 1, 2), (1, 2, 2)],
        "clos": [(8, 2), (16, 1), (2, 3)],
        "clos, uneven": [(4, 2, 16)],
        "random": [(4, 2), (2, 2, 2)],
        "circulant": [(1, 6), (2, 3), (3, 2)],
        "xor": [(1, 6), (2, 3)],
        "torus": [(1, 2, 2, 2, 8), (2, 64)],
        "hypercube": [(1,)],
        "band": [(6,)],
        "radix net": [(2, 2, 2)],
    },
    (64, 768): {
        "blocks": [(6,)],
        "blocks, aligned": [(6,)],
        "blocks, shuffled": [(6,)],
        "low rank": [(6,)],
        "monarch": [(4, 8, 1), (8, 4, 1), (2, 4, 2), (2, 2, 3), (6, 6, 1)],
        "clos": [(8, 4), (16, 2), (4, 5)],
        "butterfly": [(4, 4, 4), (2, 2, 2, 2, 2, 2)],
        "random": [(8, 4), (4, 4, 4)],
        "circulant": [(1, 12), (2, 6), (3, 4)],
        "xor": [(1, 12), (2, 6)],
        "torus": [(2, 2, 2, 2, 8), (4, 64)],
        "hypercube": [(2,)],
        "band": [(12,)],
        "radix net": [(4, 4, 4)],
    },
    (64, 1536): {
        "blocks": [(3,)],
        "blocks, aligned": [(3,)],
        "blocks, shuffled": [(3,)],
        "low rank": [(12,)],
        "monarch": [(8, 16, 1), (16, 8, 1), (4, 8, 2), (4, 4, 3), (2, 2, 6)],
        "clos": [(8, 8), (16, 4), (4, 10)],
        "butterfly, twice": [(4, 4, 4), (2, 2, 2, 2, 2, 2)],
        "parallel butterfly": [(2, 4, 4, 4), (2, 2, 2, 2, 2, 2, 2)],
        "random": [(16, 8), (8, 8, 8)],
        "circulant": [(1, 24), (2, 12)],
        "xor": [(1, 24), (2, 12)],
        "torus": [(4, 2, 2, 2, 8)],
        "hypercube": [(4,)],
        "band": [(24,)],
        "radix net": [(8, 8, 8)],
    },
    (256, 8192): {
        "blocks": [(8,)],
        "blocks, aligned": [(8,)],
        "blocks, shuffled": [(8,)],
        "low rank": [(16,)],
        "monarch": [(16, 16, 1), (8, 8, 2), (4, 4, 4), (2, 2, 8), (8, 24, 1)],
        "clos": [(16, 10), (8, 14), (32, 5)],
        "butterfly, twice": [(4, 4, 4, 4)],
        "parallel butterfly": [(2, 4, 4, 4, 4)],
        "random": [(32,), (16, 16), (16, 8, 8)],
        "circulant": [(1, 32), (2, 16)],
        "xor": [(1, 32)],
        "hypercube": [(4,)],
        "band": [(32,)],
    },
}
