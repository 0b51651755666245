"""The default rating, and the fast form of the reconstruction error that it rests on."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sparsify.fabric import Fabric
from sparsify.select.candidates import pool
from sparsify.select.haar import fast_haar, jacobi_tail
from sparsify.select.rating import ISOMETRY_WEIGHT, UNIFORMITY_WEIGHT, default_score
from sparsify.select.score.reconstruction import reconstruction_haar
from sparsify.select.width import fast_widths
from sparsify.topology import BlockDiagonal, Butterfly, Clos, LowRank, Monarch, RandomRegular


@pytest.mark.parametrize(
    ("outputs", "inputs", "rank", "size"),
    [(16, 16, 1, 64), (24, 12, 3, 96), (32, 32, 8, 64), (40, 60, 10, 64), (48, 40, 39, 64)],
)
def test_tails_of_blocks_of_orthogonal_matrices(
    outputs: int, inputs: int, rank: int, size: int
) -> None:
    """Against drawn matrices: QR of a Gaussian, and the singular values of a corner."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(30):
        corner = np.linalg.qr(rng.standard_normal((size, size)))[0][:outputs, :inputs]
        energies = np.linalg.svd(corner, compute_uv=False) ** 2
        shares.append(energies[rank:].sum() / energies.sum())
    assert jacobi_tail(outputs, inputs, rank, size) == pytest.approx(np.mean(shares), abs=0.008)


@pytest.mark.parametrize("family", ["block_diagonal", "low_rank", "monarch", "clos", "butterfly"])
@pytest.mark.parametrize("sizes", [(64, 64), (96, 60), (61, 70)])
def test_the_fast_form_is_the_score(family: str, sizes: tuple[int, int]) -> None:
    """Over what the planner chooses from; wrap, which the fast form leaves out, costs precision."""
    fabrics = [f for f in pool(*sizes, family).fabrics if f.density <= 0.6 and len(f.stages) <= 3]
    for fabric in random.Random(0).sample(fabrics, min(10, len(fabrics))):
        allowed = (0.02 if len(fabric.stages) < 3 else 0.12) if fabric.is_exact else 0.2
        assert fast_haar(fabric) == pytest.approx(reconstruction_haar(fabric), abs=allowed), fabric


def test_graphs_take_the_score_itself() -> None:
    fabric = RandomRegular(8, stages=2).build(64, 64)
    assert fast_haar(fabric) == reconstruction_haar(fabric)


def test_three_costs() -> None:
    fabric = Clos(8, 8).build(64, 64)
    width, uniformity = fast_widths(fabric)
    costs = (fast_haar(fabric), 64 / width - 1, 1 / uniformity - 1)
    weights = (1.0, ISOMETRY_WEIGHT, UNIFORMITY_WEIGHT)
    assert default_score(fabric) == pytest.approx(-np.dot(weights, costs))


def test_mixing_neighbours_rate_higher() -> None:
    fabric = BlockDiagonal(8).build(64, 64)
    strided = BlockDiagonal(8, strided=True).build(64, 64)
    assert default_score(fabric, strided) > default_score(fabric)


BETTER: dict[str, tuple[Fabric, Fabric]] = {
    "a wide hidden layer": (Monarch(8).build(64, 64), LowRank(8).build(64, 64)),
    "few stages": (Butterfly(radices=(8, 8)).build(64, 64), Butterfly(radix=2).build(64, 64)),
    "mixing": (Monarch(8).build(64, 64), BlockDiagonal(4).build(64, 64)),
}


@pytest.mark.parametrize("name", BETTER)
def test_what_is_better(name: str) -> None:
    good, bad = BETTER[name]
    assert good.parameters == pytest.approx(bad.parameters, rel=0.5)
    assert default_score(good) > default_score(bad)
