"""What a calibration measures: always the same cases, cheap ones first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..fabric import Branch, Fabric, GraphStage, Shuffle, Stage
from ..site import Site
from ..topology.block_diagonal import BlockDiagonal
from ..topology.butterfly import Butterfly
from ..topology.clos import Clos
from ..topology.low_rank import LowRank
from ..topology.monarch import Monarch

__all__ = ["ROWS", "Case", "cases"]

ROWS = (1, 4, 16, 128, 1024)
"""Input vectors at which the linear laws are fitted; between them they are interpolated."""

WIDTHS = (64, 256, 1024, 2048, 4096)
MOST_FLOPS, QUICK_FLOPS, MOST_MOVED = 2**31, 2**26, 2**22
"""Longer ones take seconds on a slow machine, and say nothing that shorter ones do not."""


@dataclass(frozen=True)
class Case:
    """One layer and what it is given.

    Args:
        site: the layer and its rows; a square image where it is a convolution.
        law: "dense", "fabric", "graph" or "convolution": which costs it bears on.
        is_held_out: whether it tests the fit instead of feeding it.
        samples: images, for a convolution.
        stride: of a convolution.
    """

    site: Site
    law: str
    is_held_out: bool
    samples: int = 1
    stride: int = 1

    @property
    def moved(self) -> int:
        """Numbers that one call reads and writes, weights not counted."""
        return (self.site.rows or 1) * (self.site.in_features + self.site.out_features)

    @property
    def flops(self) -> int:
        """Of one call, with what it moves, so that cases can be ordered."""
        return self.site.flops + self.moved


def cases(quick: bool = False) -> tuple[Case, ...]:
    """All cases, the cheapest first.

    Args:
        quick: whether to leave out wide layers and most of the others.

    Example:
        >>> sorted({case.law for case in cases(quick=True)})
        ['convolution', 'dense', 'fabric', 'graph']
    """
    most = QUICK_FLOPS if quick else MOST_FLOPS
    found = sorted(
        (case for case in _all() if case.flops <= most and case.moved <= MOST_MOVED),
        key=lambda case: case.flops,
    )
    return _thinned(found) if quick else tuple(found)


def _thinned(ascending: Iterable[Case]) -> tuple[Case, ...]:
    """Every third case of those that bear on the same costs."""
    seen: Counter[tuple[object, ...]] = Counter()
    kept = []
    for case in ascending:
        costs = (case.law, case.is_held_out, case.law != "convolution" and case.site.rows)
        if seen[costs] % 3 == 0:
            kept.append(case)
        seen[costs] += 1
    return tuple(kept)


def _all() -> Iterator[Case]:
    for inputs in (64, 128, 256, 512, 1024, 2048, 4096):
        for outputs in (64, 256, 1024, 4096):
            yield from _dense(inputs, outputs, ROWS, False)
    for fabric in _fabrics():
        yield from _linear(fabric, ROWS, False)
    for sizes in ((64, 64), (256, 256), (1024, 256), (256, 1024), (1024, 1024)):
        yield from _graphs(*sizes, (4, 32), ROWS, False)
    for sizes in ((384, 384), (768, 384), (384, 1536)):
        yield from _graphs(*sizes, (8,), (1, 50, 400), True)
    yield from _convolutions(((16, 28), (40, 32), (64, 28), (80, 20), (128, 28), (256, 14)), False)
    for place, (inputs, outputs) in enumerate(
        ((96, 192), (384, 384), (300, 500), (768, 768), (768, 3072), (3072, 768), (1536, 1536))
    ):
        yield from _dense(inputs, outputs, (1, 16, 50, 128, 1024), True)
        for number, fabric in enumerate(_held_out_fabrics(inputs, outputs)):
            between = (8, 50, 400)[(place + number) % 3]
            yield from _linear(fabric, (ROWS[(place + number) % len(ROWS)], between), True)
    yield from _convolutions(((32, 20), (48, 40), (96, 28), (192, 14)), True)


def _dense(inputs: int, outputs: int, rows: Iterable[int], is_held_out: bool) -> Iterator[Case]:
    for count in rows:
        site = Site("", "linear", inputs, outputs, rows=count).kept("dense")
        yield Case(site, "dense", is_held_out)


def _linear(fabric: Fabric, rows: Iterable[int], is_held_out: bool) -> Iterator[Case]:
    for count in rows:
        yield Case(_site(fabric, count), "fabric", is_held_out)


def _site(fabric: Fabric, rows: int) -> Site:
    return Site("", "linear", fabric.in_features, fabric.out_features, rows=rows, fabric=fabric)


def _graphs(
    inputs: int, outputs: int, degrees: Iterable[int], rows: Sequence[int], is_held_out: bool
) -> Iterator[Case]:
    for degree in degrees:
        stage = GraphStage("random", inputs, outputs, degree, seed=1)
        fabric = Fabric(inputs, outputs, ((stage,),))
        for count in rows:
            yield Case(_site(fabric, count), "graph", is_held_out)


def _fabrics() -> Iterator[Fabric]:
    """Fabrics that differ in one thing at a time."""
    for width in WIDTHS:
        for branches in _branches(width):
            yield Fabric(width, width, branches)
        halves = width // 2
        yield Fabric(width, halves, ((Stage(16, width // 32, width // 16, 1),),))
        yield Fabric(halves, width, ((Stage(16, width // 16, width // 32, 1),),))
        wider = (Stage(width // 16, 16, 16, 1), Stage(1, 16, 16, width // 16))
        yield Fabric(width - 8, width - 8, (wider,))


def _branches(width: int) -> Iterator[tuple[Branch, ...]]:
    """The branches of square fabrics."""
    for block in (4, 8, 16, 32, 64, 128):
        if block > width // 2:
            continue
        blocks, strided = (
            Stage(width // block, block, block, 1),
            Stage(1, block, block, width // block),
        )
        yield ((blocks,),)
        if block in (4, 16, 64):
            yield ((strided,),)
        if block in (16, 64) or block**2 <= width:
            yield ((blocks, strided),)
    for rank in (8, 32, 128):
        if rank <= width // 2:
            yield ((Stage(1, rank, width, 1), Stage(1, width, rank, 1)),)
    blocks, strided = Stage(width // 16, 16, 16, 1), Stage(1, 16, 16, width // 16)
    yield ((blocks, Shuffle(width, seed=1), blocks),)
    yield ((blocks,), (strided,))
    switches = 2 ** (width.bit_length() // 2)
    ports = width // switches
    yield (
        (
            Stage(switches, 4, ports, 1),
            Stage(1, switches, switches, 4),
            Stage(switches, ports, 4, 1),
        ),
    )
    for radix in (2, 4):
        levels = int(math.log(width, radix) + 0.01)
        if width <= 2048:
            yield (
                tuple(
                    Stage(width // radix ** (i + 1), radix, radix, radix**i) for i in range(levels)
                ),
            )


def _held_out_fabrics(inputs: int, outputs: int) -> Iterator[Fabric]:
    """Fabrics of the families, as a plan has them."""
    narrow = min(inputs, outputs)
    for topology in (
        BlockDiagonal(blocks=4),
        BlockDiagonal(blocks=24),
        BlockDiagonal(blocks=12, strided=True),
        Monarch(blocks=8),
        Monarch(blocks=24),
        Clos(ingress=8, middle=12),
        Clos(ingress=16, middle=32),
        Clos(ingress=24, middle=6),
        Butterfly(radix=2),
        Butterfly(radix=8),
        Butterfly(radix=16),
        LowRank(rank=narrow // 10),
        LowRank(rank=narrow // 4),
    ):
        yield topology.build(inputs, outputs)


def _convolutions(sizes: Iterable[tuple[int, int]], is_held_out: bool) -> Iterator[Case]:
    """Dense, grouped and depthwise convolutions, and fabrics, of some channels on some images."""
    for channels, side in sizes:
        for size, groups, stride in (
            (1, 1, 1),
            (3, 1, 1),
            (3, 1, 2),
            (3, 4, 1),
            (3, channels, 1),
            (7, channels, 1),
        ):
            yield _convolution(channels, side, size, stride, is_held_out, groups=groups)
        quarter = channels // 4
        fabrics = (
            Fabric(channels, channels, ((Stage(4, quarter, quarter, 1),),)),
            Fabric(channels, channels, ((Stage(1, quarter, quarter, 4),),)),
            Monarch(blocks=8 if is_held_out else 4).build(channels, channels),
            Clos(ingress=4, middle=4).build(channels, channels),
            LowRank(rank=channels // 8).build(channels, channels),
        )
        uneven = (
            BlockDiagonal(blocks=11 if is_held_out else 7).build(channels, channels),
            Monarch(blocks=7).build(channels, channels),
        )
        for fabric in uneven:
            yield _convolution(channels, side, 1, 1, is_held_out, fabric=fabric)
            yield _convolution(channels, side // 2, 3, 1, is_held_out, fabric=fabric)
        for fabric in fabrics:
            yield _convolution(channels, side, 1, 1, is_held_out, fabric=fabric)
            yield _convolution(channels, side // 2, 1, 1, is_held_out, fabric=fabric, samples=8)
            for stride in (1, 2):
                yield _convolution(
                    channels, side, 3, stride, is_held_out, fabric=fabric, samples=3 - stride
                )


def _convolution(
    channels: int,
    side: int,
    size: int,
    stride: int,
    is_held_out: bool,
    *,
    groups: int = 1,
    fabric: Fabric | None = None,
    samples: int = 1,
) -> Case:
    after = -(-side // stride)
    site = Site(
        "",
        "conv2d",
        channels,
        channels,
        (size, size),
        groups,
        rows=samples * after**2,
        in_rows=samples * side**2,
        fabric=None if fabric is None else fabric.with_kernel((size, size)),
    )
    return Case(
        site.kept("dense") if fabric is None else site,
        "convolution",
        is_held_out,
        samples,
        stride,
    )
