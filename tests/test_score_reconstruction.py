"""Reconstruction errors against closed forms, SVDs of drawn matrices and fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sparsify.errors import ConfigError
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.select.score.als import als
from sparsify.select.score.cells import cells_of, two_stage_error
from sparsify.select.score.reconstruction import (
    reconstruction_gaussian,
    reconstruction_gaussian_error,
    reconstruction_haar,
    reconstruction_haar_error,
)
from sparsify.select.score.tails import gaussian_tail, haar_tail
from sparsify.topology import TOPOLOGIES, build
from tests.support.fabrics import dense_matrix, random_fabrics

Matrix = npt.NDArray[np.float64]

FAMILIES = sorted(TOPOLOGIES)


def gaussian(rows: int, columns: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def orthogonal(rows: int, columns: int, seed: int = 0) -> Matrix:
    size = max(rows, columns)
    return np.asarray(np.linalg.qr(gaussian(size, size, seed))[0][:rows, :columns])


def contiguous(blocks: int, size: int) -> Fabric:
    """A Monarch fabric whose output blocks are neighbouring features too."""
    width, hidden = blocks * size, blocks * blocks
    first, last = Stage(blocks, blocks, size, 1), Stage(blocks, size, blocks, 1)
    return Fabric(width, width, ((first, Shuffle(hidden, stride=blocks), last),))


def sampled_tail(blocks: Matrix, rank: int) -> float:
    squares = np.linalg.svd(blocks, compute_uv=False) ** 2
    return float(squares[:, rank:].sum() / squares.sum())


@pytest.mark.parametrize(
    ("size", "rank", "share"),
    [
        (4, 1, 0.367), (4, 2, 0.100), (8, 1, 0.6156), (8, 2, 0.3665), (8, 4, 0.0998),
        (16, 1, 0.786), (16, 2, 0.618), (16, 4, 0.370), (32, 1, 0.886), (32, 2, 0.788),
        (32, 4, 0.621), (64, 1, 0.941), (64, 2, 0.887), (64, 4, 0.789),
    ],
)  # fmt: skip
def test_tails_of_square_blocks(size: int, rank: int, share: float) -> None:
    """Rounded averages over 2 * 10**5 blocks of 4, 6 * 10**4 of 8, 8000 and fewer of others."""
    assert gaussian_tail(size, size, rank) == pytest.approx(share, abs=0.0015)


def test_tails_with_closed_forms() -> None:
    assert gaussian_tail(2, 2, 1) == pytest.approx(0.5 - math.pi / 8, abs=1e-12)
    assert gaussian_tail(5, 7, 0) == 1
    assert gaussian_tail(5, 7, 5) == gaussian_tail(1, 9, 1) == 0
    assert haar_tail(64, 64, 16, 64) == haar_tail(16, 64, 4, 64) == 0.75


@pytest.mark.parametrize(("rows", "columns", "rank"), [(2, 5, 1), (9, 2, 1), (3, 8, 2), (12, 5, 1)])
def test_tails_of_rectangles(rows: int, columns: int, rank: int) -> None:
    blocks = np.random.default_rng(3).standard_normal((40_000, rows, columns))
    expected = sampled_tail(blocks, rank)
    assert gaussian_tail(rows, columns, rank) == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize(
    ("share", "tail"),
    [(1 / 16, 0.790), (3 / 32, 0.703), (1 / 8, 0.624), (1 / 4, 0.377), (1 / 2, 0.106)],
)
def test_wide_blocks_follow_marchenko_pastur(share: float, tail: float) -> None:
    assert gaussian_tail(4096, 4096, round(4096 * share)) == pytest.approx(tail, abs=6e-4)
    assert gaussian_tail(256, 256, round(256 * share)) == pytest.approx(tail, abs=2e-3)


def test_wide_rectangles_follow_marchenko_pastur() -> None:
    for rows, columns, rank in ((300, 900, 40), (600, 320, 150)):
        expected = sampled_tail(gaussian(rows, columns)[None], rank)
        assert gaussian_tail(rows, columns, rank) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("rows", "columns", "rank", "size", "draws"),
    [(8, 8, 1, 64, 400), (12, 20, 4, 24, 800), (2, 2, 1, 4, 6000), (300, 290, 60, 500, 2)],
)
def test_tails_of_orthogonal_blocks(
    rows: int, columns: int, rank: int, size: int, draws: int
) -> None:
    blocks = np.stack([orthogonal(size, size, seed)[:rows, :columns] for seed in range(draws)])
    expected = sampled_tail(blocks, rank)
    assert haar_tail(rows, columns, rank, size) == pytest.approx(expected, abs=0.006)


def test_projections_that_are_known() -> None:
    """Hadamard, identity and ramp: in blocks of neighbours far off, in strided ones exact."""
    hadamard = np.ones((1, 1))
    for _ in range(4):
        hadamard = np.kron(hadamard, np.array([[1.0, 1.0], [1.0, -1.0]]))
    monarch = build("monarch", 16, 16, {"blocks": 4})
    ramp = np.arange(256.0).reshape(16, 16)
    assert two_stage_error(hadamard, contiguous(4, 4)) == pytest.approx(0.75)
    assert two_stage_error(hadamard, monarch) < 1e-28
    assert two_stage_error(np.eye(64), contiguous(8, 8)) == pytest.approx(0.875)
    assert two_stage_error(np.eye(64), build("monarch", 64, 64, {"blocks": 8})) == 0
    assert two_stage_error(ramp, contiguous(4, 4)) == pytest.approx(4.3774e-6, rel=1e-4)
    strided = build("monarch", 16, 16, {"blocks": 4, "links": 2})
    assert two_stage_error(ramp, strided) < 1e-28


def test_projection_refuses_other_fabrics() -> None:
    for fabric in (build("clos", 16, 16, {"ingress": 4, "middle": 2}), _wrapped()):
        with pytest.raises(ConfigError, match="Block SVDs"):
            two_stage_error(np.eye(fabric.out_features, fabric.in_features), fabric)
    for fit in (two_stage_error, lambda target, fabric: als(target, fabric)):
        with pytest.raises(ConfigError, match="shape"):
            fit(np.eye(3), contiguous(4, 4))


def _wrapped() -> Fabric:
    return build("monarch", 61, 67, {"blocks": 8})


def test_one_stage_keeps_its_density() -> None:
    blocks = build("block_diagonal", 30, 20, {"blocks": 5})
    graph = Fabric(32, 16, ((GraphStage("random", 32, 16, 8, seed=1),),))
    double = Fabric(8, 8, ((Stage(2, 4, 4, 1),), (Shuffle(8, seed=1), Stage(4, 2, 2, 1))))
    folded = build("block_diagonal", 13, 7, {"blocks": 3})
    for fabric in (blocks, graph, double, folded):
        expected = 1 - np.count_nonzero(fabric.paths()) / fabric.paths().size
        for score in (reconstruction_gaussian, reconstruction_haar):
            assert score(fabric) == pytest.approx(expected)
        assert reconstruction_gaussian_error(fabric) is None


@pytest.mark.parametrize("rank", [1, 5, 16])
def test_low_rank_of_orthogonal_targets(rank: int) -> None:
    assert reconstruction_haar(build("low_rank", 20, 64, {"rank": rank})) == 1 - rank / 20


def test_two_stages_with_any_shuffle_between() -> None:
    """Cells then have different numbers of links; some have none."""
    fabric = Fabric(
        24, 32, ((Shuffle(24, seed=4), Stage(4, 8, 6, 1), Shuffle(32, seed=7), Stage(8, 4, 4, 1)),)
    )
    cells = cells_of(fabric)
    assert cells is not None
    assert len(cells.links) > 1
    assert sum(cells.counts) < 4 * 8
    drawn = [two_stage_error(gaussian(32, 24, seed), fabric) for seed in range(60)]
    assert reconstruction_gaussian(fabric) == pytest.approx(np.mean(drawn), abs=0.01)
    drawn = [two_stage_error(orthogonal(32, 24, seed), fabric) for seed in range(60)]
    assert reconstruction_haar(fabric) == pytest.approx(np.mean(drawn), abs=0.01)
    outside = fabric.paths() == 0
    assert outside.sum() > 0
    assert two_stage_error(outside.astype(float), fabric) == 1


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("monarch", {"blocks": 8}),
        ("monarch", {"blocks_in": 4, "blocks_out": 8, "links": 2}),
        ("butterfly", {"radices": (16, 4)}),
        ("low_rank", {"rank": 6}),
    ],
)
def test_als_finds_what_svds_prove_best(family: str, options: dict[str, object]) -> None:
    fabric = build(family, 64, 64, options)
    for target in (gaussian(64, 64), orthogonal(64, 64)):
        best = two_stage_error(target, fabric)
        fitted = als(target, fabric)
        assert best - 1e-9 <= fitted <= 1.02 * best
    assert reconstruction_gaussian(fabric) == pytest.approx(
        two_stage_error(gaussian(64, 64), fabric), abs=0.02
    )


def test_als_never_gets_worse_and_finds_exact_fabrics() -> None:
    fabric = build("butterfly", 16, 16, {"radix": 4})
    errors = [als(gaussian(16, 16), fabric, sweeps) for sweeps in (1, 2, 4, 8, 30)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 1
    weights = [torch.randn(s.shape, dtype=torch.float64) for s in fabric.stages]
    assert als(dense_matrix(fabric, weights), fabric, 200) < 1e-4


def test_als_knows_wrap_shuffles_and_branches() -> None:
    """Its fixed factors: with a dense stage in a branch the fabric can be any matrix."""
    dense = (Shuffle(9, seed=1), Stage(1, 11, 9, 1), Shuffle(11, seed=2))
    deeper = (Stage(7, 2, 1, 1), Stage(1, 8, 14, 1))
    fabric = Fabric(7, 8, (dense, deeper))
    assert als(gaussian(8, 7), fabric) < 1e-6
    blocks = Fabric(7, 8, ((Shuffle(8, seed=1), Stage(2, 4, 4, 1), Shuffle(8, seed=2)),))
    outside = blocks.paths() == 0
    target = gaussian(8, 7)
    expected = (target[outside] ** 2).sum() / (target**2).sum()
    assert als(target, blocks) == pytest.approx(expected)


def test_als_never_leaves_its_range() -> None:
    """Rounding must not blow up solves that are singular, or exact already."""
    for family in FAMILIES:
        for fabric in random_fabrics(family, 32, seed=31):
            if max(max(s.in_features, s.out_features) for s in fabric.stages) <= 40:
                target = gaussian(fabric.out_features, fabric.in_features)
                assert 0 <= als(target, fabric, 10) <= 1 + 1e-9, str(fabric)


def _estimated(family: str) -> Iterator[Fabric]:
    for fabric in random_fabrics(family, 60, seed=43):
        widest = max(max(s.in_features, s.out_features) for s in fabric.stages)
        if reconstruction_gaussian_error(fabric) is not None and widest <= 100:
            yield fabric


def _mean_fit(draw: Callable[[int, int, int], Matrix], fabric: Fabric) -> float:
    """One draw says little where the matrix is narrow."""
    draws = 6 if min(fabric.in_features, fabric.out_features) <= 12 else 1
    shape = (fabric.out_features, fabric.in_features)
    return float(np.mean([als(draw(*shape, 50 + k), fabric, 40, k) for k in range(draws)]))


def test_stated_errors_hold() -> None:
    """On fabrics of all families that no constant was fitted to: 95 of 100 are promised."""
    held = []
    for family in FAMILIES:
        for fabric in itertools.islice(_estimated(family), 3):
            for draw, score, error in (
                (gaussian, reconstruction_gaussian, reconstruction_gaussian_error),
                (orthogonal, reconstruction_haar, reconstruction_haar_error),
            ):
                value, stated = score(fabric), error(fabric)
                assert stated is not None
                promised = stated * max(value, 1e-3)
                assert promised < 0.5, str(fabric)
                held.append(abs(value - _mean_fit(draw, fabric)) <= promised)
    assert len(held) > 40
    assert np.mean(held) >= 0.92


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_are_shares(family: str) -> None:
    for fabric in itertools.islice(random_fabrics(family, 60, seed=2), 12, 40, 2):
        if min(fabric.in_features, fabric.out_features) > 2:
            assert 0 <= reconstruction_gaussian(fabric) <= 1
            assert 0 <= reconstruction_haar(fabric) <= 1


def test_a_kernel_counts_as_one_tap() -> None:
    fabric = build("clos", 64, 64, {"ingress": 8, "middle": 4})
    assert reconstruction_gaussian(fabric.with_kernel((3, 3))) == reconstruction_gaussian(fabric)
