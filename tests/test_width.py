"""Effective width and path uniformity: against the recursion on matrices, and against samples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.select.digits import link
from sparsify.select.score.effective_width import (
    _measured,
    effective_width,
    effective_width_error,
    isometry,
)
from sparsify.select.score.paths import path_uniformity, path_uniformity_error
from sparsify.select.width import fast_widths
from sparsify.topology import BlockDiagonal, Butterfly, Clos, LowRank, Monarch
from tests.support.fabrics import random_fabrics

Matrix = npt.NDArray[np.float64]

FAMILIES = ("block_diagonal", "low_rank", "monarch", "clos", "butterfly")
"""The families of Kronecker-sparse stages, for which the closed forms are."""


def random(size: int, degree: int, seed: int) -> GraphStage:
    return GraphStage("random", size, size, degree, seed=seed)


def cube(bits: int) -> GraphStage:
    return GraphStage("hypercube", 2**bits, 2**bits, bits)


ODD = {
    "branches": Fabric(16, 16, ((Stage(4, 4, 4, 1),), (Stage(1, 4, 4, 4),))),
    "shuffled branches": Fabric(
        64,
        64,
        (
            (Shuffle(64, seed=1), Stage(16, 4, 4, 1)),
            (Stage(1, 4, 4, 16), Shuffle(64, seed=2)),
            (Stage(8, 8, 8, 1), Stage(1, 8, 8, 8)),
        ),
    ),
    "strides": Fabric(64, 64, ((Stage(16, 4, 4, 1), Shuffle(64, stride=4), Stage(16, 4, 4, 1)),)),
    "folded branches": Fabric(
        50, 61, ((Stage(4, 16, 13, 1),), (Stage(8, 8, 7, 1),), (Stage(1, 8, 7, 8),))
    ),
    "folds behind a shuffle": Fabric(
        50,
        61,
        (
            (
                Shuffle(52, seed=5),
                Stage(4, 16, 13, 1),
                Shuffle(64, seed=2),
                Stage(8, 8, 8, 1),
                Shuffle(64, seed=3),
            ),
        ),
    ),
    "digits that do not fit": Fabric(
        60, 60, ((Stage(15, 4, 4, 1), Stage(6, 10, 10, 1), Stage(15, 4, 4, 1)),)
    ),
    "hypercubes": Fabric(64, 64, ((cube(6), cube(6)),)),
    "graphs and blocks": Fabric(64, 64, ((cube(6), Stage(16, 4, 4, 1), random(64, 8, 1)),)),
    "wrapped graphs": Fabric(
        60, 50, ((random(64, 8, 1),), (Stage(4, 16, 15, 1), Shuffle(64, seed=1)))
    ),
}
"""Fabrics for which a short cut is easily wrong."""


def dense_width(fabric: Fabric) -> float:
    """Effective width by the recursion of V and T on whole matrices, one line per formula."""
    count, total = len(fabric.branches), 0.0
    means = []
    for branch in fabric.branches:
        paths = ends(branch[0].in_features, fabric.in_features)
        products, norms = paths @ paths.T, np.ones((len(paths), len(paths)))
        for step in branch:
            mask = step.mask().astype(float)
            fan_in = mask.sum(1, keepdims=True)
            mean = mask / fan_in
            products, norms, paths = mean @ products @ mean.T, mean @ norms @ mean.T, mean @ paths
            if not isinstance(step, Shuffle):
                diagonal = np.diag(norms) + 2 * np.diag(products)
                np.fill_diagonal(products, diagonal)
                np.fill_diagonal(norms, diagonal)
        fold = ends(len(paths), fabric.out_features).T
        fold = fold / fold.sum(1, keepdims=True)
        diagonal = np.diag(fold @ norms @ fold.T).copy()
        surplus = len(paths) - fabric.out_features
        for row in range(surplus):  # |q + q'|^4 / 4 has 4 (q.q')^2 / 4 beside the norms
            diagonal[row] += products[row, row + fabric.out_features]
        folded = fold @ products @ fold.T
        np.fill_diagonal(folded, diagonal)
        total += float(folded.sum())
        means.append(fold @ paths)
    for one, two in itertools.permutations(means, 2):
        total += float((one @ two.T).sum() + len(one) + np.sum(one * two))
    return fabric.out_features**2 * count**2 / total


def ends(wide: int, width: int) -> Matrix:
    return np.eye(width)[np.arange(wide) % width]


def dense_uniformity(fabric: Fabric, follower: Fabric | None = None) -> float:
    """U2 from the two matrices of path counts."""
    first = fabric.paths().astype(float)
    if follower is not None:
        second = follower.paths().astype(float)
    else:
        second = first if len(first) == len(first.T) else first.T
    rows = second @ first
    rows = rows / rows.sum(1, keepdims=True)
    return float(1 / (rows.shape[1] * np.mean(np.sum(rows**2, axis=1))))


def sampled_width(fabric: Fabric, draws: int, seed: int = 0) -> float:
    """out^2 / mean of ||W W'||^2 over drawn weights."""
    rng = np.random.default_rng(seed)
    squares = 0.0
    for _ in range(draws):
        total: Any = 0.0
        for branch in fabric.branches:
            product = ends(branch[0].in_features, fabric.in_features)
            for step in branch:
                mask = step.mask()
                weights = rng.standard_normal(mask.shape) / np.sqrt(mask.sum(1, keepdims=True))
                product = (mask if isinstance(step, Shuffle) else mask * weights) @ product
            fold = ends(branch[-1].out_features, fabric.out_features).T
            total = total + (fold / np.sqrt(fold.sum(1, keepdims=True))) @ product
        total /= np.sqrt(len(fabric.branches))
        squares += float(np.sum((total @ total.T) ** 2))
    return fabric.out_features**2 * draws / squares


@pytest.mark.parametrize(
    ("fabric", "width"),
    [
        (BlockDiagonal(1).build(16, 16), 256 / 33),
        (Monarch(4).build(16, 16), 64 / 15),
        (BlockDiagonal(4).build(16, 16), 64 / 9),
        (Butterfly(radix=2).build(16, 16), 64 / 61),
        *[(BlockDiagonal(1).build(n, n), n * n / (2 * n + 1)) for n in (1, 2, 7, 100)],
    ],
)
def test_widths_known_in_closed_form(fabric: Fabric, width: float) -> None:
    assert fast_widths(fabric)[0] == pytest.approx(width, rel=1e-12)
    assert effective_width(fabric) == pytest.approx(width, rel=1e-12)
    assert isometry(fabric) == pytest.approx(fabric.out_features / width - 1)


@pytest.mark.parametrize(("size", "rank"), [(16, 3), (64, 16), (4096, 64)])
def test_bottlenecks_add_up_like_resistors(size: int, rank: int) -> None:
    beside = 1 / size + (1 + 1 / size) / rank
    total = size**2 * beside + size * (1 + 2 / (size * rank) + beside)
    fabric = LowRank(rank).build(size, size)
    assert effective_width(fabric) == pytest.approx(size**2 / total, rel=1e-12)
    assert isometry(fabric) == pytest.approx(1 + size / rank, rel=2 / rank)


@pytest.mark.parametrize("family", FAMILIES)
def test_fast_widths_are_the_dense_recursion(family: str) -> None:
    wrapped = 0
    for fabric in random_fabrics(family, 80, seed=1):
        width, uniformity = fast_widths(fabric)
        assert uniformity == pytest.approx(dense_uniformity(fabric), rel=1e-9), str(fabric)
        wraps = fabric.branches[0][0].in_features > fabric.in_features
        allowed = 0.1 if wraps else 1e-9
        assert width == pytest.approx(dense_width(fabric), rel=allowed), str(fabric)
        wrapped += wraps
    assert wrapped < 80


@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_recursion_needs_no_closed_form(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sparsify.select.score.effective_width._has_closed_form", lambda fabric: False
    )
    _measured.cache_clear()
    for fabric in random_fabrics(family, 60, seed=2):
        assert effective_width(fabric) == pytest.approx(dense_width(fabric), rel=1e-9), str(fabric)
        assert effective_width_error(fabric) is None
    _measured.cache_clear()


@pytest.mark.parametrize("name", ODD)
def test_odd_fabrics(name: str) -> None:
    fabric = ODD[name]
    width, uniformity = dense_width(fabric), dense_uniformity(fabric)
    assert effective_width(fabric) == pytest.approx(width, rel=1e-9)
    assert path_uniformity(fabric) == pytest.approx(uniformity, rel=1e-9)
    fast = fast_widths(fabric)
    assert fast[0] == pytest.approx(width, rel=0.03)
    assert fast[1] == pytest.approx(uniformity, rel=0.05)
    if fabric.is_exact and all(link(branch) for branch in fabric.branches):
        assert fast == pytest.approx((width, uniformity), rel=1e-9)


@pytest.mark.parametrize("name", ODD)
def test_the_recursion_is_the_mean_over_weights(name: str) -> None:
    draws = 4000 if ODD[name].in_features < 50 else 400
    assert effective_width(ODD[name]) == pytest.approx(sampled_width(ODD[name], draws), rel=0.03)


def test_widths_over_many_rows_are_estimated_well() -> None:
    fabric = Fabric(2048, 2048, ((random(2048, 32, 1), random(2048, 32, 2)),))
    assert fast_widths(fabric)[0] == pytest.approx(effective_width(fabric), rel=1e-3)
    for error in (effective_width_error(fabric), path_uniformity_error(fabric)):
        assert error is None or 0 <= error < 0.01


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (BlockDiagonal(4).build(60, 60), Monarch(7).build(60, 60)),
        (BlockDiagonal(10).build(61, 60), Monarch(7).build(60, 62)),
        (BlockDiagonal(10, strided=True).build(61, 60), BlockDiagonal(7).build(60, 62)),
        (Monarch(blocks_in=8, blocks_out=2).build(64, 64), BlockDiagonal(16).build(64, 32)),
        (ODD["branches"], ODD["branches"]),
        (ODD["folded branches"], BlockDiagonal(5).build(61, 61)),
        (BlockDiagonal(16).build(64, 64), ODD["shuffled branches"]),
    ],
)
def test_uniformity_with_a_follower(first: Fabric, second: Fabric) -> None:
    exact = dense_uniformity(first, second)
    assert fast_widths(first, second)[1] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("stride", "uniformity"), [({}, 0.125), ({"strided": True}, 1.0), ({"stride": 2}, 0.25)]
)
def test_uniformity_of_blocks_in_a_row(stride: dict[str, Any], uniformity: float) -> None:
    blocks = BlockDiagonal(8).build(64, 64)
    assert fast_widths(blocks, BlockDiagonal(8, **stride).build(64, 64))[1] == uniformity


@pytest.mark.parametrize("size", [4096, 16384])
def test_large_sizes_have_the_widths_of_theory(size: int) -> None:
    root = int(size**0.5)
    square = Monarch(root).build(size, size)
    clos = Clos(ingress=root, middle=root).build(size, size)
    assert fast_widths(square) == pytest.approx((size / 3, 1.0), rel=0.02)
    assert fast_widths(clos) == pytest.approx((size / 4, 1.0), rel=0.03)
