"""Projections against oracles: SVDs of explicitly gathered blocks, known matrices, members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsify as sp
from sparsify.fabric import Fabric, Shuffle, Stage
from sparsify.projection import Projection, best_variant, project, variants
from sparsify.select.score.tails import gaussian_tail
from sparsify.topology import TOPOLOGIES, build
from tests.support.fabrics import dense_matrix, random_fabrics

Matrix = npt.NDArray[np.float64]

FAMILIES = sorted(TOPOLOGIES)


def gaussian(rows: int, columns: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def decaying(size: int, power: float = 1.5, seed: int = 0) -> Matrix:
    """A covariance with the spectrum i ** -power in a random basis."""
    basis = np.linalg.qr(gaussian(size, size, seed))[0]
    return (basis * np.arange(1.0, size + 1) ** -power) @ basis.T


def materialised(fabric: Fabric, factors: Sequence[Matrix]) -> Matrix:
    """The dense matrix, by code that has nothing in common with the solvers."""
    return dense_matrix(fabric, [torch.from_numpy(factor) for factor in factors])


def relative(weight: Matrix, other: Matrix, covariance: Matrix | None = None) -> float:
    """The relative squared error, of the output where there is a covariance."""
    metric = np.eye(weight.shape[1]) if covariance is None else covariance
    lost = weight - other
    return float(np.trace(lost @ metric @ lost.T) / np.trace(weight @ metric @ weight.T))


def member(fabric: Fabric, seed: int = 0) -> Matrix:
    """A random matrix that the fabric can be."""
    rng = np.random.default_rng(seed)
    return materialised(fabric, [rng.standard_normal(stage.shape) for stage in fabric.stages])


def discarded(weight: Matrix, fabric: Fabric) -> float:
    """What a two-stage fabric must lose, from its masks: tails of singular values of its blocks.

    Hidden features with the same inputs and outputs are grouped; each group is a block.
    """
    first, second = (step for step in _factors_of(fabric))
    groups: dict[tuple[bytes, bytes], int] = {}
    for feature in range(len(first)):
        key = (first[feature].tobytes(), second[:, feature].tobytes())
        groups[key] = groups.get(key, 0) + 1
    lost = weight.copy()
    total = 0.0
    for (inputs, outputs), rank in groups.items():
        block = np.ix_(*(np.flatnonzero(np.frombuffer(part, bool)) for part in (outputs, inputs)))
        total += float((np.linalg.svd(weight[block])[1][rank:] ** 2).sum())
        lost[block] = 0
    return (total + float((lost**2).sum())) / float((weight**2).sum())


def _factors_of(fabric: Fabric) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The supports of the two stages, shuffles multiplied into their neighbours."""
    (masks,) = fabric.mask()
    products, weighted = [], [isinstance(step, Stage) for step in fabric.branches[0]]
    place = weighted.index(True)
    for part in (masks[: place + 1], masks[place + 1 :]):
        product = part[0]
        for mask in part[1:]:
            product = mask @ product
        products.append(np.ascontiguousarray(product).astype(bool))
    return products[0], products[1]


@st.composite
def two_stage_fabrics(draw: st.DrawFn) -> Fabric:
    """Monarch of any rectangle and links, butterflies, low rank; any shuffles around them."""
    ins, outs, c, b, links = (draw(st.integers(1, 5)) for _ in range(5))
    steps: list[Any] = [Stage(ins, links * outs, c, 1)]
    if draw(st.booleans()):  # any shuffle between gives cells of unequal ranks
        steps.append(Shuffle(ins * links * outs, seed=draw(st.integers(0, 99))))
    steps.append(Stage(1, b, links * ins, outs))
    if draw(st.booleans()):
        steps.insert(0, Shuffle(ins * c, stride=ins))
    if draw(st.booleans()):
        steps.append(Shuffle(outs * b, seed=draw(st.integers(0, 99))))
    return Fabric(ins * c, outs * b, (tuple(steps),))


@given(two_stage_fabrics(), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_two_stages_lose_the_discarded_singular_values(fabric: Fabric, seed: int) -> None:
    weight = gaussian(fabric.out_features, fabric.in_features, seed)
    factors, error = project(weight, fabric)
    assert error == pytest.approx(discarded(weight, fabric), abs=1e-10)
    assert relative(weight, materialised(fabric, factors)) == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize(
    ("family", "inputs", "outputs", "options"),
    [
        ("monarch", 64, 64, {"blocks": 8}),
        ("monarch", 96, 40, {"blocks_in": 12, "blocks_out": 5, "links": 3}),
        ("monarch", 16, 48, {"blocks_in": 2, "blocks_out": 3, "links": 20}),  # more than a rank
        ("low_rank", 30, 50, {"rank": 7}),
        ("butterfly", 60, 60, {"radices": (6, 10)}),
        ("butterfly", 24, 64, {"radices": (4, 6)}),
    ],
)
def test_families_of_two_stages(
    family: str, inputs: int, outputs: int, options: dict[str, Any]
) -> None:
    fabric, weight = build(family, inputs, outputs, options), gaussian(outputs, inputs, 3)
    assert project(weight, fabric).error == pytest.approx(discarded(weight, fabric), abs=1e-10)


@pytest.mark.parametrize(("size", "links"), [(4, 1), (8, 1), (8, 2), (16, 2), (32, 4)])
def test_gaussian_matrices_lose_what_theory_says(size: int, links: int) -> None:
    """THEORY 1a: the residual depends on the shape of the blocks and the links alone."""
    blocks = 256 // size
    fabric = build("monarch", 256, 256, {"blocks": blocks, "links": links})
    error = project(gaussian(256, 256), fabric).error
    assert error == pytest.approx(gaussian_tail(size, size, links), abs=0.006)


@pytest.mark.parametrize(("rows", "columns"), [(300, 260), (260, 300)])
def test_large_blocks(rows: int, columns: int) -> None:
    """Their leading singular vectors come from another solver."""
    fabric, weight = build("low_rank", columns, rows, {"rank": 40}), gaussian(rows, columns)
    squares = np.linalg.svd(weight)[1] ** 2
    assert project(weight, fabric).error == pytest.approx(squares[40:].sum() / squares.sum(), 1e-10)
    assert project(member(fabric), fabric).error < 1e-22
    rest, outputs = gaussian(rows, 8) @ gaussian(8, columns), decaying(columns, 1.0)
    assert project(rest, fabric).error < 1e-22  # fewer singular values than links
    assert project(rest, fabric, outputs).error < 1e-22


def test_singular_values_are_split_evenly() -> None:
    (first, second), _ = project(gaussian(20, 30), build("low_rank", 30, 20, {"rank": 4}))
    entering = (first[0, 0] ** 2).sum(1)
    leaving = (second[0, 0] ** 2).sum(0)
    np.testing.assert_allclose(entering, leaving)
    np.testing.assert_allclose(entering, np.linalg.svd(gaussian(20, 30))[1][:4])


def test_surplus_links_are_alive() -> None:
    """More links than a block has singular values: a feature of zeros would never train."""
    fabric = build("monarch", 8, 8, {"blocks": 4, "links": 3})
    factors, error = project(gaussian(8, 8), fabric)
    assert error < 1e-28
    assert all((np.abs(factor) > 1e-9).any(-1).all() for factor in factors)


@pytest.mark.parametrize(
    ("family", "inputs", "outputs", "options"),
    [
        ("block_diagonal", 24, 36, {"blocks": 4}),
        ("block_diagonal", 23, 37, {"blocks": 5}),  # wraps and folds
        ("monarch", 36, 24, {"blocks_in": 6, "blocks_out": 4, "links": 2}),
        ("low_rank", 17, 31, {"rank": 5}),
        ("butterfly", 64, 64, {"radix": 2}),
        ("butterfly", 64, 64, {"radix": 4}),
        ("butterfly", 60, 60, {"radices": (3, 4, 5)}),
        ("butterfly", 96, 32, {"radices": (2, 4, 4)}),
        ("butterfly", 16, 64, {"radices": (4, 2, 2)}),
    ],
)
@pytest.mark.parametrize("is_aware", [False, True])
def test_members_are_recovered(
    family: str, inputs: int, outputs: int, options: dict[str, Any], is_aware: bool
) -> None:
    fabric = build(family, inputs, outputs, options)
    covariance = decaying(inputs, 1.0) if is_aware else None
    for seed in range(3):
        weight = member(fabric, seed)
        factors, error = project(weight, fabric, covariance)
        assert error < 1e-20
        assert relative(weight, materialised(fabric, factors)) < 1e-18


def hadamard(size: int) -> Matrix:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.kron(matrix, np.array([[1.0, 1.0], [1.0, -1.0]]))
    return matrix


def errors_of_variants(weight: Matrix, fabric: Fabric) -> list[float]:
    return [project(weight, variant).error for variant in variants(fabric)]


def contiguous(size: int, blocks: int, links: int = 1) -> Fabric:
    """A Monarch fabric whose output blocks are neighbouring features, as its input blocks are."""
    first, last = Stage(blocks, links * blocks, size, 1), Stage(blocks, size, links * blocks, 1)
    hidden = links * blocks * blocks
    steps = (first, Shuffle(hidden, stride=links * blocks), last)
    if links > 1:  # the blocks of the first stage write (link, block)
        steps = (first, Shuffle(hidden, stride=blocks), last)
    return Fabric(size * blocks, size * blocks, (steps,))


@pytest.mark.parametrize("radices", [(2, 2, 2, 2), (4, 4), (4, 2, 2)])
def test_hadamard_is_a_butterfly(radices: tuple[int, ...]) -> None:
    fabric = build("butterfly", 16, 16, {"radices": radices})
    assert project(hadamard(16), fabric).error < 1e-28


def test_hadamard_in_blocks() -> None:
    """THEORY 6.5: neighbours on both sides lose three quarters, strides on one side nothing."""
    assert project(hadamard(16), contiguous(4, 4)).error == pytest.approx(0.75, abs=1e-12)
    fabric, (_, error) = best_variant(hadamard(16), contiguous(4, 4))
    assert error < 1e-28
    assert fabric.parameters == 128


def test_identity_in_blocks() -> None:
    """THEORY 6.6."""
    assert project(np.eye(64), contiguous(8, 8)).error == pytest.approx(0.875, abs=1e-12)
    assert best_variant(np.eye(64), contiguous(8, 8))[1].error < 1e-28


def test_a_ramp_in_blocks() -> None:
    """THEORY 6.6."""
    ramp = np.arange(256.0).reshape(16, 16)
    assert project(ramp, contiguous(4, 4)).error == pytest.approx(4.3774e-6, rel=1e-4)
    assert project(ramp, contiguous(4, 4, links=2)).error < 1e-28


@pytest.mark.parametrize("part", ["real", "imag"])
@pytest.mark.parametrize(("size", "blocks"), [(16, 4), (64, 8)])
def test_fourier_up_to_its_permutation(part: str, size: int, blocks: int) -> None:
    """With strides on both sides each block is a complex number of rank one: of rank two in parts.

    Its own order of features, neighbours on one side, is far off.
    """
    fourier = np.fft.fft(np.eye(size))
    fabric = build("monarch", size, size, {"blocks": blocks, "links": 2})
    weight = np.ascontiguousarray(getattr(fourier, part))
    assert project(weight, fabric).error > 0.1
    found, (factors, error) = best_variant(weight, fabric)
    assert error < 1e-28
    assert relative(weight, materialised(found, factors)) < 1e-26
    assert found.parameters == fabric.parameters


def test_complex_fourier_as_real() -> None:
    fourier = np.fft.fft(np.eye(16))
    weight = np.kron(fourier.real, np.eye(2)) + np.kron(fourier.imag, [[0.0, -1.0], [1.0, 0.0]])
    fabric = build("monarch", 32, 32, {"blocks": 8, "links": 2})
    assert min(errors_of_variants(weight, fabric)) < 1e-28


@pytest.mark.parametrize("family", FAMILIES)
def test_variants_have_equal_parameters(family: str) -> None:
    for fabric in list(random_fabrics(family, 40, seed=5))[25:]:
        found = list(variants(fabric))
        assert found[0] == fabric
        assert len(set(found)) == len(found) <= 4
        assert {variant.parameters for variant in found} == {fabric.parameters}


def test_variants_only_permute() -> None:
    """A member of the fabric with its rows and columns in strided order is one of a variant."""
    for fabric in (
        build("monarch", 24, 30, {"blocks_in": 4, "blocks_out": 5, "links": 2}),
        build("butterfly", 24, 24, {"radices": (2, 3, 4)}),
        build("block_diagonal", 24, 30, {"blocks": 6}),
    ):
        first, last = fabric.stages[0], fabric.stages[-1]
        weight = member(fabric)
        columns = Shuffle(24, stride=first.a).permutation()
        weight[:, columns] = weight.copy()
        rows = Shuffle(30 if fabric.out_features == 30 else 24, stride=last.b).permutation()
        turned = weight[rows] if last.d == 1 else weight
        assert project(turned, fabric).error > 0.01
        found, (factors, error) = best_variant(turned, fabric)
        assert error < 1e-20
        assert relative(turned, materialised(found, factors)) < 1e-20


def test_shuffles_that_cancel_are_left_out() -> None:
    *_, strided = variants(build("block_diagonal", 24, 30, {"blocks": 6}))
    assert strided.branches == ((Stage(1, 5, 4, 6),),)


def test_equal_variants_leave_the_fabric_alone() -> None:
    fabric = build("monarch", 16, 16, {"blocks": 4})
    assert best_variant(np.ones((16, 16)), fabric)[0] is fabric


def test_one_stage_copies_the_kept_entries() -> None:
    weight = gaussian(30, 20)
    for fabric in (
        build("block_diagonal", 20, 30, {"blocks": 5}),
        build("random_regular", 20, 30, {"degree": 4}),
    ):
        factors, error = project(weight, fabric)
        kept = fabric.paths() > 0
        np.testing.assert_array_equal(materialised(fabric, factors), weight * kept)
        expected = float((weight[~kept] ** 2).sum() / (weight**2).sum())
        assert error == pytest.approx(expected, abs=1e-12)


def test_duplicate_weights_share_an_entry() -> None:
    """Where the ends wrap and fold two weights are one entry; so are those of two branches."""
    branches = ((Shuffle(9, seed=1), Stage(3, 4, 3, 1)), (Stage(1, 11, 7, 1),))
    for fabric in (build("block_diagonal", 13, 7, {"blocks": 3}), Fabric(7, 11, branches)):
        weight = gaussian(fabric.out_features, fabric.in_features)
        factors, error = project(weight, fabric)
        kept = fabric.paths() > 0
        assert (fabric.paths() > 1).any()
        np.testing.assert_allclose(materialised(fabric, factors), weight * kept)
        assert error == pytest.approx(float((weight[~kept] ** 2).sum() / (weight**2).sum()))


def test_zero_is_zero() -> None:
    for family, options in (("monarch", {"blocks": 4}), ("block_diagonal", {"blocks": 4})):
        fabric = build(family, 16, 16, options)
        for covariance in (None, np.eye(16)):
            projection = project(np.zeros((16, 16)), fabric, covariance)
            assert isinstance(projection, Projection)
            assert projection.error == 0
            assert not any(factor.any() for factor in projection.factors)


def test_layers_have_the_reported_error() -> None:
    weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    for fabric in (
        sp.fabric("monarch", 32, 48, blocks=4, links=2),
        sp.fabric("clos", 32, 48, ingress=4, middle=3),
        sp.fabric("monarch", 32, 48, blocks=5),
    ):
        factors, error = sp.project(weight, fabric)
        layer = sp.nn.FabricLinear(fabric, bias=False)
        with torch.no_grad():
            for parameter, factor in zip(layer.factors, factors, strict=True):
                parameter.copy_(factor)
        lost = (weight - layer.weight.detach()).square().sum() / weight.square().sum()
        assert lost.item() == pytest.approx(error, rel=1e-5)
        assert [factor.dtype for factor in factors] == [torch.float32] * len(factors)
