"""The table of scores, and paths, dimension and rank against matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from sparsify.errors import ConfigError
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage, Step
from sparsify.select.score import HIGHER_IS_BETTER, SCORES, score, score_errors, score_named
from sparsify.select.score.dimension import local_dimension
from sparsify.select.score.paths import path_variation, paths_max, paths_mean, paths_min
from sparsify.select.score.rank import generic_rank
from sparsify.select.score.size import stages
from sparsify.topology import TOPOLOGIES, BlockDiagonal, Butterfly, Clos, LowRank, Monarch
from tests.support.fabrics import random_fabrics
from tests.test_width import ODD, cube, ends, random

Matrix = npt.NDArray[np.float64]

KEYS = [
    "effective_width",
    "path_uniformity",
    "local_dimension",
    "generic_rank",
    "reconstruction_gaussian",
    "reconstruction_haar",
    "paths_min",
    "paths_mean",
    "paths_max",
    "path_variation",
    "stages",
    "isometry",
    "spectral_gap",
    "algebraic_connectivity",
    "cut_bandwidth",
    "parameters",
]


def steps_with_weights(fabric: Fabric, seed: int) -> list[list[Matrix]]:
    """The matrices of every branch, drawn weights in the stages, wrap first and fold last."""
    rng = np.random.default_rng(seed)

    def drawn(step: Step) -> Matrix:
        mask = step.mask().astype(np.float64)
        return mask if isinstance(step, Shuffle) else mask * rng.standard_normal(mask.shape)

    return [
        [
            ends(branch[0].in_features, fabric.in_features),
            *map(drawn, branch),
            ends(branch[-1].out_features, fabric.out_features).T,
        ]
        for branch in fabric.branches
    ]


def product(matrices: list[Matrix], width: int) -> Matrix:
    """The last matrix times ... times the first; the identity of `width` for none."""
    result = np.eye(width)
    for matrix in matrices:
        result = matrix @ result
    return result


def jacobian_rank(fabric: Fabric) -> int:
    """Rank of the derivative of the matrix by all weights, at a random point."""
    columns = []
    for branch, matrices in zip(fabric.branches, steps_with_weights(fabric, 0), strict=True):
        for place, step in enumerate(branch, start=1):
            if isinstance(step, Shuffle):
                continue
            left = product(matrices[place + 1 :], step.out_features)
            right = product(matrices[:place], fabric.in_features)
            rows, inner = np.nonzero(step.mask())
            columns.append(np.einsum("op,pi->oip", left[:, rows], right[inner]))
    joined = np.concatenate(columns, axis=2)
    return int(np.linalg.matrix_rank(joined.reshape(-1, joined.shape[2])))


def sampled_rank(fabric: Fabric) -> int:
    """Rank of the matrix for drawn weights."""
    branches = steps_with_weights(fabric, 1)
    return int(np.linalg.matrix_rank(sum(product(each, fabric.in_features) for each in branches)))


def any_family(count: int, seed: int, highest: int) -> Iterator[Fabric]:
    for family in TOPOLOGIES:
        for fabric in random_fabrics(family, count, seed):
            if max(step.in_features for branch in fabric.branches for step in branch) <= highest:
                yield fabric


@pytest.mark.parametrize(
    ("fabric", "dimension", "parameters"),
    [
        (Monarch(4).build(16, 16), 112, 128),
        (Monarch(4, links=2).build(16, 16), 192, 256),
        (Monarch(blocks_in=3, blocks_out=4, links=2).build(36, 24), 384, 432),
        (Monarch(blocks_in=5, blocks_out=3, links=2).build(20, 30), 360, 420),
        (Monarch(8).build(64, 64), 960, 1024),
        (Butterfly(radix=2).build(8, 8), 32, 48),
        (Butterfly(radix=2).build(16, 16), 80, 128),
        (Butterfly(radix=4).build(16, 16), 112, 128),
        (Butterfly(radix=2).build(64, 64), 448, 768),
        (Butterfly(radix=4).build(64, 64), 640, 768),
        (Clos(4, 2).build(16, 16), 80, 96),
        (Clos(4, 4).build(16, 16), 160, 192),
        (Clos(4, 5).build(16, 16), 200, 240),
        (Clos(4, 8).build(16, 16), 256, 384),
        (LowRank(3).build(16, 16), 87, 96),
        (BlockDiagonal(4).build(16, 16), 64, 64),
        # More links than a block has rows: any block, so as many dimensions as it has weights.
        (Monarch(blocks_in=4, blocks_out=4, links=4).build(8, 8), 64, 256),
    ],
)
def test_dimensions_known_from_theory(fabric: Fabric, dimension: int, parameters: int) -> None:
    assert (local_dimension(fabric), fabric.parameters) == (dimension, parameters)


def test_dimension_is_the_rank_of_the_jacobian() -> None:
    # More weights than a deep cascade can use: an upper bound there, and the exact number else.
    total = exact = 0
    for fabric in any_family(100, seed=2, highest=64):
        if fabric.in_features * fabric.out_features > 400 or fabric.parameters > 600:
            continue
        found, rank = local_dimension(fabric), jacobian_rank(fabric)
        assert found >= rank, str(fabric)
        assert found <= (1.5 if len(fabric.stages) <= 6 else 2) * rank, str(fabric)
        total += 1
        exact += found == rank
    assert total > 150
    assert exact > 0.9 * total


@pytest.mark.parametrize(
    "fabric",
    [
        Fabric(10, 11, ((Stage(4, 3, 3, 1),), (Stage(3, 4, 4, 1),), (Stage(1, 4, 4, 3),))),
        Fabric(8, 8, ((Stage(2, 8, 4, 1), Stage(2, 4, 8, 1)),)),
        Fabric(16, 16, ((cube(4), cube(4)),)),
        Fabric(16, 16, ((cube(4), Stage(4, 4, 4, 1), random(16, 4, 1)),)),
        Fabric(16, 16, ((random(16, 4, 1), random(16, 4, 2)),)),
        Fabric(
            16,
            16,
            (
                (
                    Shuffle(16, seed=5),
                    Stage(4, 4, 4, 1),
                    Shuffle(16, seed=2),
                    Stage(2, 8, 8, 1),
                    Shuffle(16, stride=8),
                ),
            ),
        ),
        Fabric(12, 12, ((Stage(3, 4, 4, 1), Stage(2, 6, 6, 1), Stage(3, 4, 4, 1)),)),
    ],
)
def test_dimension_of_graphs_and_branches(fabric: Fabric) -> None:
    assert local_dimension(fabric) == jacobian_rank(fabric)


def test_generic_rank_is_the_rank_of_a_sample() -> None:
    wrapped = 0
    for fabric in any_family(60, seed=3, highest=100):
        if len(fabric.stages) > 4:  # products of many factors lose rank to rounding
            continue
        assert generic_rank(fabric) == sampled_rank(fabric), str(fabric)
        wrapped += generic_rank(fabric) < fabric.width
    assert wrapped > 0
    for fabric in ODD.values():
        assert generic_rank(fabric) == sampled_rank(fabric), str(fabric)


def test_generic_rank_known_from_theory() -> None:
    assert generic_rank(Monarch(blocks_in=8, blocks_out=4).build(64, 64)) == 32
    # 121 hidden features, three of which only copies of inputs reach.
    assert generic_rank(Monarch(11).build(127, 127)) == 118
    assert generic_rank(Monarch(blocks_in=4, blocks_out=2).build(64, 10)) == 8
    assert generic_rank(Monarch(8).build(61, 61)) == 61


def test_paths_are_those_of_the_matrix() -> None:
    for fabric in (*any_family(60, seed=4, highest=100), *ODD.values()):
        paths = fabric.paths()
        found = [paths_min(fabric), paths_mean(fabric), paths_max(fabric), path_variation(fabric)]
        expected = [paths.min(), paths.mean(), paths.max(), paths.std() / paths.mean()]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), str(fabric)


def test_paths_known_from_theory() -> None:
    fabrics = {
        5.0: Clos(4, 5).build(32, 32),
        1.0: Butterfly(radix=2).build(64, 64),
        3.0: Monarch(4, links=3).build(16, 16),
        2.0: Fabric(16, 16, Butterfly(radix=2).build(16, 16).branches * 2),
    }
    for count, fabric in fabrics.items():
        assert paths_min(fabric) == paths_mean(fabric) == paths_max(fabric) == count
    twice = Fabric(16, 16, ((cube(4), cube(4)),))
    assert (paths_min(twice), paths_mean(twice), paths_max(twice)) == (0, 1, 4)


def test_counts_of_paths_do_not_overflow() -> None:
    fabric = Fabric(1024, 1024, ((Stage(1, 1024, 1024, 1),) * 8,))
    assert paths_max(fabric) == paths_min(fabric) == 1024.0**7


def test_the_table_is_complete() -> None:
    assert list(SCORES) == KEYS == list(HIGHER_IS_BETTER)
    assert stages(Fabric(16, 16, ((Stage(4, 4, 4, 1),), (Stage(1, 4, 4, 4),)))) == 1


@pytest.mark.parametrize(
    "fabric",
    [
        Fabric(1, 1, ((Stage(1, 1, 1, 1),),)),
        Monarch(4).build(16, 16),
        Clos(4, 3).build(23, 31),
        Fabric(16, 16, ((GraphStage("random", 16, 16, 4, seed=1),),)),
    ],
)
def test_every_score_of_a_fabric(fabric: Fabric) -> None:
    scores = score(fabric)
    assert list(scores) == KEYS
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())
    assert scores["parameters"] == fabric.parameters
    assert set(score_errors(fabric)) <= set(KEYS)
    assert all(error >= 0 for error in score_errors(fabric).values())


@pytest.mark.parametrize("value", [math.nan, math.inf, "high", None])
def test_scores_of_other_packages_are_checked(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabric = Monarch(4).build(16, 16)
    entries = {**SCORES._entries(), "mine": f"{__name__}:bad_score"}
    monkeypatch.setattr(SCORES, "_table", entries)
    monkeypatch.setitem(globals(), "bad_score", lambda fabric: value)
    score_named.cache_clear()
    with pytest.raises(ConfigError) as caught:
        score_named("mine", fabric)
    for part in ("'mine'", repr(value), "monarch(blocks=4)"):
        assert part in str(caught.value)


def test_scores_of_other_packages_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"mine": f"{__name__}:good_score"}
    monkeypatch.setattr(SCORES, "_table", entries)
    monkeypatch.setitem(globals(), "good_score", _waist)
    monkeypatch.setitem(globals(), "_waist_error", lambda fabric: 0.25)
    score_named.cache_clear()
    assert score(Monarch(4).build(16, 16)) == {"mine": 16.0}
    assert score_errors(Monarch(4).build(16, 16)) == {"mine": 0.25}


def _waist(fabric: Fabric) -> int:
    return fabric.waist


def test_unknown_scores_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no score 'efective_width'.*effective_width"):
        score_named("efective_width", Monarch(4).build(16, 16))
