"""Fabrics that each break something else in a kernel."""

from __future__ import annotations

from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage

FABRICS = {
    "one number": Fabric(1, 1, ((Stage(1, 1, 1, 1),),)),
    "dense": Fabric(7, 5, ((Stage(1, 5, 7, 1),),)),
    "blocks": Fabric(16, 8, ((Stage(4, 2, 4, 1),),)),
    "strided blocks": Fabric(16, 8, ((Stage(1, 2, 4, 4),),)),
    "blocks and strides": Fabric(16, 8, ((Stage(2, 2, 4, 2),),)),
    "monarch": Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),)),
    "monarch, primes": Fabric(13, 11, ((Stage(4, 3, 4, 1), Stage(1, 5, 4, 3)),)),
    "low rank": Fabric(9, 12, ((Stage(1, 2, 9, 1), Stage(1, 12, 2, 1)),)),
    "clos": Fabric(24, 36, ((Stage(4, 5, 6, 1), Stage(1, 4, 4, 5), Stage(4, 9, 5, 1)),)),
    "butterfly": Fabric(16, 16, (tuple(Stage(2**i, 2, 2, 2 ** (3 - i)) for i in range(4)),)),
    "strided first": Fabric(12, 12, ((Stage(1, 4, 4, 3), Stage(3, 4, 4, 1)),)),
    "shuffled": Fabric(
        15, 13, ((Shuffle(16, stride=4), Stage(2, 4, 4, 2), Shuffle(16, stride=8)),)
    ),
    "branches": Fabric(
        15,
        13,
        (
            (Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),
            (
                Shuffle(16, stride=4),
                Stage(2, 3, 4, 2),
                Shuffle(12, seed=1),
                Stage(1, 13, 12, 1),
            ),
        ),
    ),
    "graph": Fabric(18, 12, ((GraphStage("random", 18, 12, 3, seed=5),),)),
    "graphs that wrap and fold": Fabric(
        15,
        29,
        (
            (GraphStage("hypercube", 16, 16, 4), GraphStage("random", 16, 32, 4, seed=1)),
            (Shuffle(15, seed=2), Stage(3, 2, 5, 1), GraphStage("random", 6, 30, 2)),
        ),
    ),
    "wide": Fabric(80, 96, ((Stage(4, 24, 20, 1), Stage(1, 8, 8, 12)),)),
}
