"""Every family, over the table: sizes, dead weights, budgets, options; and the oracle facts."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

import sparsify as sp
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.ops import fabric_linear
from sparsify.topology import TOPOLOGIES, build, proposals
from tests.support.fabrics import (
    all_options,
    built,
    dense_matrix,
    jacobian,
    random_fabrics,
    random_factors,
    sizes,
)

FAMILIES = sp.topologies()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_lies_on_a_path(family: str) -> None:
    for fabric in random_fabrics(family, 500):
        assert fabric.parameters > 0, fabric
        for branch, matrices in zip(fabric.branches, fabric.mask(), strict=True):
            assert matrices[0].shape[1] == fabric.in_features, fabric
            assert matrices[-1].shape[0] == fabric.out_features, fabric
            assert len(branch) == len(matrices)
            # No hidden feature without a reader or a writer: then every weight is on a path.
            for matrix in matrices:
                assert matrix.any(axis=0).all(), fabric
                assert matrix.any(axis=1).all(), fabric


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_gets_a_gradient(family: str) -> None:
    for number, fabric in enumerate(random_fabrics(family, 30, seed=1)):
        factors = [f.requires_grad_() for f in random_factors(fabric, number)]
        random = torch.Generator().manual_seed(number)
        shape = (3, fabric.in_features)
        x = torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True)
        y = fabric_linear(x, factors, fabric)
        y.backward(torch.randn(y.shape, generator=random, dtype=torch.float64))
        for tensor in (x, *factors):
            assert tensor.grad is not None
            assert (tensor.grad != 0).all(), fabric


FIXED_SIZES = {"hypercube", "torus"}
"""Families whose graph has the sizes it has: where these do not suit the widths, much wraps."""


@pytest.mark.parametrize("family", FAMILIES)
def test_hardly_any_weight_is_there_twice(family: str) -> None:
    doubled = parameters = 0
    for inputs, outputs in sizes(100, seed=2):
        for topology in TOPOLOGIES[family].candidates(inputs, outputs):
            fabric = topology.build(inputs, outputs)
            masks = (matrix for matrices in fabric.mask() for matrix in matrices)
            twice = sum(int((mask - 1).clip(0).sum()) for mask in masks)
            if all(isinstance(stage, Stage) for stage in fabric.stages):
                assert twice <= 0.05 * fabric.parameters or family in FIXED_SIZES, fabric
            assert twice == 0 or not fabric.is_exact, fabric
            doubled, parameters = doubled + twice, parameters + fabric.parameters
    assert doubled <= 0.05 * parameters


# What a family can keep of a budget is bounded where its graph has a degree of its own.
FILLED: dict[str, float] = {
    "random_regular": 0.9,
    "expander": 0.8,
    "radix_net": 0.7,
    "parallel_butterfly": 0.7,
}


@pytest.mark.parametrize("family", FILLED)
@pytest.mark.parametrize("size", [(256, 256), (1024, 1024), (768, 3072), (3072, 768), (1000, 250)])
def test_candidates_fill_common_budgets(family: str, size: tuple[int, int]) -> None:
    densities = []
    for topology in proposals(family, *size):
        one = topology.build(*size)
        most = topology.most(*size) if topology.grows else 1
        densities += [count * one.density for count in range(1, most + 1)]
    for budget in (0.05, 0.1, 0.25, 0.5):
        if budget < min(densities):
            continue
        used = max(density for density in densities if density <= budget) / budget
        assert used >= FILLED[family] * (0.8 if budget > 0.25 else 1), (budget, used)


def test_structured_families_have_kernels_for_all_of_their_steps() -> None:
    """The automatic choice considers these alone."""
    for family in FAMILIES:
        steps = {
            step
            for fabric in random_fabrics(family, 60, seed=5)
            for branch in fabric.branches
            for step in branch
        }
        plain = all(
            isinstance(step, Stage) or (isinstance(step, Shuffle) and step.stride is not None)
            for step in steps
        )
        assert TOPOLOGIES[family].is_structured == plain, family


def filled(family: str, inputs: int, outputs: int, budget: float) -> Fabric | None:
    """The fabric within a budget, None where there is none."""
    try:
        return sp.fabric(family, inputs, outputs, budget=budget)
    except sp.BudgetError:
        return None


@pytest.mark.parametrize("family", [*FAMILIES, "auto"])
@pytest.mark.parametrize("budget", [0.02, 0.07, 0.1, 0.25, 0.29, 1 / 3, 0.5, 0.9, 1.0])
def test_a_budget_is_never_exceeded(family: str, budget: float) -> None:
    tall = [(1, 500), (500, 1), (3, 499), (256, 16), (17, 331), (96, 96), (127, 129), (101, 101)]
    for inputs, outputs in [*sizes(60, seed=3), *tall]:
        fabric = filled(family, inputs, outputs, budget)
        if fabric is None:
            continue
        assert (fabric.in_features, fabric.out_features) == (inputs, outputs)
        assert fabric.parameters <= budget * inputs * outputs + 1e-9, fabric
        assert sum(f.numel() for f in random_factors(fabric)) == fabric.parameters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(1, 1), (1, 5), (5, 1), (2, 3), (3, 3), (5, 5), (4, 6), (6, 5), (6, 6)]
)
def test_a_budget_is_refused_exactly_when_nothing_fits(
    family: str, inputs: int, outputs: int
) -> None:
    # Seeds change no number.
    options = (o for o in all_options(family, max(inputs, outputs)) if "seed" not in o)
    fabrics = (built(family, inputs, outputs, option) for option in options)
    least = min(fabric.parameters for fabric in fabrics if fabric is not None)
    dense = inputs * outputs
    if least < dense:
        assert sp.fabric(family, inputs, outputs, budget=least / dense).parameters == least
    with pytest.raises(sp.BudgetError, match=f"{inputs} -> {outputs} .* Raise the budget"):
        sp.fabric(family, inputs, outputs, budget=min(1.0, (least - 0.5) / dense))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_larger_budget_never_gives_a_narrower_fabric(family: str) -> None:
    for inputs, outputs in ((64, 64), (96, 32), (61, 127), (100, 100)):
        budgets = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
        fabrics = [filled(family, inputs, outputs, budget) for budget in budgets]
        widths = [0 if fabric is None else fabric.width for fabric in fabrics]
        assert widths == sorted(widths)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fabric_prints_as_the_call_that_makes_it(family: str) -> None:
    for fabric in random_fabrics(family, 40, seed=4):
        call, _, _ = fabric.family.partition(" [")  # a search says behind it what it found
        name, _, rest = call.partition("(")
        options = eval(f"dict({rest}")
        assert build(name, fabric.in_features, fabric.out_features, options) == fabric


BAD_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("monach", {"blocks": 4}, "Did you mean 'monarch'?"),
    ("auto", {}, "needs a budget="),
    ("auto", {"blocks": 4}, "needs a budget="),
    ("monarch", {"block": 4}, "no option 'block'; it has blocks, blocks_in, blocks_out, links"),
    ("monarch", {}, "needs blocks=, or blocks_in= and blocks_out="),
    ("monarch", {"blocks_in": 4}, "needs blocks="),
    ("monarch", {"blocks": 4, "blocks_in": 4}, "needs blocks="),
    ("monarch", {"blocks": 17}, "from 1 to 16 for these sizes; got 17"),
    ("monarch", {"blocks": 4, "links": 0}, "links must be a whole number from 1"),
    ("monarch", {"blocks": 4, "budget": 0.5}, "not both"),
    ("low_rank", {}, "needs the option rank="),
    ("low_rank", {"rank": 0}, "got 0"),
    ("low_rank", {"rank": 17}, "from 1 to 16"),
    ("low_rank", {"rank": 2.0}, "got 2.0"),
    ("low_rank", {"rank": True}, "got True"),
    ("low_rank", {"rank": "4"}, "got '4'"),
    ("low_rank", {"rank": None}, "got None"),
    ("block_diagonal", {"blocks": -1}, "got -1"),
    ("block_diagonal", {"blocks": 32}, "from 1 to 16"),
    ("block_diagonal", {"blocks": 4, "strided": "yes"}, "strided"),
    ("clos", {"ingress": 4}, "needs the option middle="),
    ("clos", {"ingress": 4, "middle": 0}, "middle must"),
    ("clos", {"ingress": 17, "middle": 1}, "ingress must"),
    ("clos", {"ingress": 4, "middle": 1, "egress": 99}, "egress must"),
    ("butterfly", {}, "exactly one of radices= and radix="),
    ("butterfly", {"radices": (4, 4), "radix": 4}, "exactly one of radices= and radix="),
    ("butterfly", {"radices": (4, 2)}, "multiply to 16"),
    ("butterfly", {"radices": (4, 8)}, "multiply to 32"),
    ("butterfly", {"radices": ()}, "multiply to 1"),
    ("butterfly", {"radices": (16, 1)}, "each of radices"),
    ("butterfly", {"radices": (4, "4")}, "got '4'"),
    ("butterfly", {"radices": 4}, "radices must be a sequence"),
    ("butterfly", {"radix": 1}, "from 2 to 16"),
    ("butterfly", {"radix": 17}, "from 2 to 16"),
    ("parallel_butterfly", {"radix": 4}, "needs the option branches="),
    ("parallel_butterfly", {"branches": 2}, "parallel_butterfly needs exactly one of radices="),
    ("parallel_butterfly", {"branches": 0, "radix": 4}, "branches must be a whole number from 1"),
    ("parallel_butterfly", {"branches": 2, "radices": (4, 5)}, "multiply to 16"),
    ("parallel_butterfly", {"branches": 2, "radices": "44"}, "radices must be a sequence"),
    ("parallel_butterfly", {"branches": 2, "radix": 4, "seed": -1}, "from 0 to 2147483647; got -1"),
    ("hypercube", {"stages": 2}, "'dimensions' or 'adjacency'; got 2"),
    ("hypercube", {"stages": "edges"}, "'dimensions' or 'adjacency'; got 'edges'"),
    ("torus", {}, "needs the option dims="),
    ("torus", {"dims": 16}, "dims must be a sequence; got 16"),
    ("torus", {"dims": (4, 5)}, "dims must multiply to 16, the narrower width"),
    ("torus", {"dims": ()}, "dims must multiply to 16"),
    ("torus", {"dims": (4, 4.0)}, "each of dims must be a whole number from 1 to 16"),
    ("torus", {"dims": (-4, -4)}, "each of dims must be a whole number from 1 to 16"),
    ("torus", {"dims": (4, 4), "stages": 0}, "stages must be a whole number from 1 to 16"),
    ("random_regular", {"degree": 17}, "degree must be a whole number from 1 to 16"),
    ("random_regular", {"degree": 4, "seed": 0.5}, "seed must be a whole number from 0"),
    ("random_regular", {"degree": 4, "stages": 17}, "from 1 to 16"),
    ("expander", {"degree": 17}, "degree must be a whole number from 1 to 16"),
    ("expander", {"degree": 0, "kind": "ramanujan"}, "degree must be a whole number from 1 to 16"),
    ("expander", {"degree": 4, "kind": "random"}, "('circulant', 'cayley', 'ramanujan')"),
    ("expander", {"degree": 4, "seed": True}, "seed must be a whole number from 0"),
    ("radix_net", {"radices": 4}, "radices must be a sequence"),
    ("radix_net", {"radices": (4, 2)}, "multiply to 16 (the nodes of 16 -> 16)"),
    ("radix_net", {"radices": ()}, "multiply to 16"),
    ("radix_net", {"radices": (4, 4), "stages": 17}, "from 1 to 16"),
    ("radix_net", {"radices": (4, 4), "stages": 0}, "from 1 to 16"),
]

# Sizes that a family cannot take, with these options.
BAD_SIZES: list[tuple[str, int, int, dict[str, Any], str]] = [
    ("torus", 18, 24, {"dims": (4, 6)}, "dims must multiply to 18"),
    ("hypercube", 1, 8, {"stages": "adjacency"}, "two features or more on both sides"),
    ("random_regular", 100, 10, {"degree": 9}, "degree must be a whole number from 10 to 100"),
    ("expander", 100, 10, {"degree": 15}, "degree must be a multiple of 10"),
    ("expander", 100, 10, {"degree": 9}, "from 10 to 100"),
    ("expander", 100, 10, {"degree": 9, "kind": "ramanujan"}, "from 10 to 100"),
    ("expander", 256, 64, {"degree": 128, "stages": 2}, "from 1 to 64"),
    ("expander", 60, 60, {"degree": 6, "kind": "cayley"}, "got 60 nodes and 6 links. Take kind="),
    ("expander", 61, 61, {"degree": 7, "kind": "cayley"}, "allowed are [1, 2, 3, 4, 5, 6, 10"),
    ("radix_net", 65, 64, {"radices": (8, 8)}, "multiply to 65 (the nodes of 65 -> 64)"),
    ("parallel_butterfly", 24, 24, {"branches": 2, "radices": (4, 4)}, "multiply to 24"),
]


@pytest.mark.parametrize(("family", "inputs", "outputs", "options", "fragment"), BAD_SIZES)
def test_sizes_that_a_family_cannot_take(
    family: str, inputs: int, outputs: int, options: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(sp.ConfigError) as caught:
        build(family, inputs, outputs, options)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("family", "options", "fragment"), BAD_OPTIONS, ids=[f"{f}{o}" for f, o, _ in BAD_OPTIONS]
)
def test_bad_options_say_what_is_allowed(
    family: str, options: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(sp.ConfigError) as caught:
        sp.fabric(family, 16, 16, **options)
    assert fragment in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True, None])
def test_bad_sizes(family: str, size: Any) -> None:
    for sizes_ in ((size, 8), (8, size)):
        with pytest.raises(sp.ConfigError, match="features"):
            sp.fabric(family, *sizes_, budget=0.5)


@pytest.mark.parametrize("budget", [0, -0.1, 1.1, float("nan"), float("inf"), "0.1", True])
def test_bad_budgets(budget: Any) -> None:
    with pytest.raises(sp.ConfigError, match="budget must be a share"):
        sp.fabric("monarch", 16, 16, budget=budget)


def test_a_strided_block_diagonal_is_the_second_stage_of_a_butterfly() -> None:
    fabric = sp.fabric("block_diagonal", 12, 8, blocks=4, strided=True)
    assert fabric.branches == ((Stage(1, 2, 3, 4),),)
    assert sp.fabric("block_diagonal", 12, 8, blocks=4).branches == ((Stage(4, 2, 3, 1),),)


# --- THEORY.md section 6 --------------------------------------------------------------------

# (inputs, outputs, family, options, parameters, rank of the Jacobian)
RANKS: list[tuple[int, int, str, dict[str, Any], int, int]] = [
    (16, 16, "monarch", {"blocks": 4}, 128, 112),
    (16, 16, "monarch", {"blocks": 4, "links": 2}, 256, 192),
    (36, 24, "monarch", {"blocks_in": 3, "blocks_out": 4, "links": 2}, 432, 384),
    (20, 30, "monarch", {"blocks_in": 5, "blocks_out": 3, "links": 2}, 420, 360),
    (64, 64, "monarch", {"blocks": 8}, 1024, 960),
    (8, 8, "butterfly", {"radix": 2}, 48, 32),
    (16, 16, "butterfly", {"radix": 2}, 128, 80),
    (16, 16, "butterfly", {"radices": (4, 4)}, 128, 112),
    (64, 64, "butterfly", {"radix": 2}, 768, 448),
    (64, 64, "butterfly", {"radix": 4}, 768, 640),
    (16, 16, "clos", {"ingress": 4, "middle": 2}, 96, 80),
    (16, 16, "clos", {"ingress": 4, "middle": 4}, 192, 160),
    (16, 16, "clos", {"ingress": 4, "middle": 5}, 240, 200),
    (16, 16, "clos", {"ingress": 4, "middle": 8}, 384, 256),
    (16, 16, "low_rank", {"rank": 3}, 96, 87),
    (60, 60, "butterfly", {"radices": (3, 4, 5)}, 720, 600),
    (32, 32, "block_diagonal", {"blocks": 4}, 256, 256),
    (32, 32, "block_diagonal", {"blocks": 4, "strided": True}, 256, 256),
    (16, 16, "parallel_butterfly", {"branches": 1, "radix": 2}, 128, 80),
    (16, 16, "parallel_butterfly", {"branches": 2, "radices": (4, 4)}, 256, 224),
    (64, 64, "parallel_butterfly", {"branches": 2, "radix": 4}, 1536, 1280),
    (16, 16, "hypercube", {}, 128, 80),
]


@pytest.mark.parametrize(
    ("inputs", "outputs", "family", "options", "parameters", "rank"),
    RANKS,
    ids=[f"{family}{options}-{inputs}-{outputs}" for inputs, outputs, family, options, *_ in RANKS],
)
def test_jacobian_rank(
    inputs: int, outputs: int, family: str, options: dict[str, Any], parameters: int, rank: int
) -> None:
    fabric = sp.fabric(family, inputs, outputs, **options)
    assert fabric.parameters == parameters
    assert np.linalg.matrix_rank(jacobian(fabric, random_factors(fabric))) == rank


# (inputs, outputs, family, options, paths between each pair)
PATHS: list[tuple[int, int, str, dict[str, Any], int]] = [
    *[(64, 64, "clos", {"ingress": 8, "middle": m}, m) for m in (1, 4, 8, 12)],
    (48, 36, "clos", {"ingress": 8, "egress": 6, "middle": 5}, 5),
    *[(64, 64, "butterfly", {"radices": r}, 1) for r in ((2,) * 6, (4,) * 3, (8, 8), (16, 4))],
    *[(64, 64, "monarch", {"blocks": 8, "links": k}, k) for k in (1, 2, 5)],
    (60, 40, "monarch", {"blocks_in": 6, "blocks_out": 5, "links": 3}, 3),
    (24, 40, "low_rank", {"rank": 7}, 7),
    *[(64, 64, "parallel_butterfly", {"branches": p, "radix": 4}, p) for p in (1, 2, 5)],
    (64, 128, "parallel_butterfly", {"branches": 3, "radices": (8, 8), "seed": 4}, 3),
    *[(i, o, "hypercube", {}, 1) for i, o in ((2, 2), (64, 64), (64, 256), (96, 32))],
    *[(64, 64, "radix_net", {"radices": r}, 1) for r in ((2,) * 6, (4,) * 3, (8, 8), (16, 4))],
    (64, 64, "radix_net", {"radices": (8, 8), "stages": 4}, 64),
    (32, 96, "radix_net", {"radices": (4, 8)}, 1),
    (12, 12, "expander", {"degree": 12, "kind": "ramanujan"}, 1),
]


@pytest.mark.parametrize(("inputs", "outputs", "family", "options", "paths"), PATHS)
def test_paths_between_every_pair(
    inputs: int, outputs: int, family: str, options: dict[str, Any], paths: int
) -> None:
    fabric = sp.fabric(family, inputs, outputs, **options)
    assert (fabric.paths() == paths).all()


def test_paths_of_two_butterflies_and_of_blocks() -> None:
    once = sp.fabric("butterfly", 64, 64, radix=2).paths()
    assert (once @ once == 64).all()
    blocks = sp.fabric("block_diagonal", 64, 64, blocks=8).paths()
    strided = sp.fabric("block_diagonal", 64, 64, blocks=8, strided=True).paths()
    assert (blocks @ blocks == 0).mean() == 7 / 8, "aligned blocks never mix"
    assert (strided @ blocks == 1).all(), "one stage of a butterfly after another"


def test_paths_of_a_hypercube() -> None:
    once = sp.fabric("hypercube", 16, 16, stages="adjacency").paths()
    twice = once @ once
    assert (twice.min(), twice.mean(), twice.max()) == (0, 1, 4)
    assert (np.diag(twice) == 4).all()


def test_parallel_branches_are_different_butterflies() -> None:
    one = sp.fabric("parallel_butterfly", 16, 16, branches=3, radix=4)
    other = sp.fabric("parallel_butterfly", 16, 16, branches=3, radix=4, seed=1)
    orders = [branch[0] for fabric in (one, other) for branch in fabric.branches[1:]]
    assert (
        one.branches[0] == other.branches[0] == sp.fabric("butterfly", 16, 16, radix=4).branches[0]
    )
    assert len({order.permutation().tobytes() for order in orders}) == 4


def test_stages_of_random_graphs_differ() -> None:
    for family in ("random_regular", "expander"):
        masks = sp.fabric(family, 64, 64, degree=8, stages=3, seed=2).mask()[0]
        assert len({mask.tobytes() for mask in masks}) == 3
        again = sp.fabric(family, 64, 64, degree=8, stages=3, seed=3).mask()[0]
        assert all((a != b).any() for a, b in itertools.product(masks, again))


def normalised_sigma2(fabric: Fabric) -> float:
    """Of one stage without wrap."""
    assert fabric.is_exact
    values = np.linalg.svd(fabric.mask()[0][0].astype(float), compute_uv=False)
    return float(values[1] / values[0])


def test_an_expander_says_what_its_search_reached() -> None:
    fabric = sp.fabric("expander", 66, 66, degree=6, kind="ramanujan")
    reached, bound = re.findall(r"sigma2 ([\d.]+), bound ([\d.]+)\]$", fabric.family)[0]
    assert float(bound) == pytest.approx(2 * math.sqrt(5) / 6, abs=6e-4)
    assert float(reached) == pytest.approx(normalised_sigma2(fabric), abs=6e-4)
    assert float(reached) <= float(bound)
    assert Fabric.from_json(fabric.to_json()).family == fabric.family


@pytest.mark.parametrize(
    ("nodes", "degree", "graph"), [(49, 7, "plane"), (61, 30, "paley"), (49, 49, None)]
)
def test_explicit_ramanujan_graphs(nodes: int, degree: int, graph: str | None) -> None:
    fabric = sp.fabric("expander", nodes, nodes, degree=degree, kind="ramanujan")
    (stage,) = fabric.stages
    assert (stage.graph if isinstance(stage, GraphStage) else None) == graph
    assert fabric.family == f"expander(degree={degree}, kind='ramanujan')"
    assert normalised_sigma2(fabric) <= 2 * math.sqrt(degree - 1) / degree


def test_expanders_are_better_than_a_ring_of_the_same_degree() -> None:
    for kind, nodes in (("circulant", 60), ("cayley", 64), ("cayley", 61), ("ramanujan", 60)):
        found = sp.fabric("expander", nodes, nodes, degree=12, kind=kind)
        ring = build(
            "radix_net", nodes, nodes, {"radices": (12, math.ceil(nodes / 12)), "stages": 1}
        )
        assert normalised_sigma2(found) < 0.75 < 0.9 < normalised_sigma2(ring)


def test_a_large_search_takes_no_dense_matrix() -> None:
    fabric = sp.fabric("expander", 4096, 4096, degree=16, kind="ramanujan")
    reached, bound = re.findall(r"sigma2 ([\d.]+), bound ([\d.]+)\]$", fabric.family)[0]
    assert float(reached) <= float(bound) == pytest.approx(2 * math.sqrt(15) / 16, abs=6e-4)


@pytest.mark.parametrize(
    ("fabric", "rank"),
    [
        (build("monarch", 64, 64, {"blocks_in": 8, "blocks_out": 4}), 32),
        (build("monarch", 64, 64, {"blocks": 8}), 64),
        (build("monarch", 10, 64, {"blocks_in": 2, "blocks_out": 4}), 8),
        (build("low_rank", 48, 64, {"rank": 5}), 5),
        (build("clos", 64, 64, {"ingress": 8, "middle": 4}), 32),
        (build("butterfly", 61, 61, {"radix": 4}), 61),
    ],
    ids=str,
)
def test_generic_rank(fabric: Fabric, rank: int) -> None:
    assert fabric.width == rank
    assert np.linalg.matrix_rank(dense_matrix(fabric, random_factors(fabric))) == rank


# THEORY.md 1b: parameters as a formula of sizes that divide.
FORMULAS: dict[str, tuple[dict[str, Any], Any]] = {
    "block_diagonal": ({"blocks": 6}, lambda i, o: i * o // 6),
    "low_rank": ({"rank": 5}, lambda i, o: 5 * (i + o)),
    "monarch": (
        {"blocks_in": 4, "blocks_out": 6, "links": 2},
        lambda i, o: 2 * (6 * i + 4 * o),
    ),
    "clos": ({"ingress": 6, "middle": 3}, lambda i, o: 3 * (i + o) + 3 * 36),
    "butterfly": ({"radices": (2, 3, 4)}, lambda i, o: 9 * 24 if i == o else None),
    "parallel_butterfly": (
        {"branches": 5, "radices": (2, 3, 4)},
        lambda i, o: 5 * 9 * 24 if i == o else None,
    ),
    "hypercube": ({"stages": "adjacency"}, lambda i, o: 32 * 5 * (i // 24) * (o // 24)),
    "torus": ({"dims": (2, 3, 4), "stages": 2}, lambda i, o: 6 * (i + o)),
    "random_regular": ({"degree": 6}, lambda i, o: 6 * o),
    "expander": ({"degree": 6, "stages": 3}, lambda i, o: 6 * (24 + 24 + o)),
    "radix_net": ({"radices": (4, 6)}, lambda i, o: 4 * i + 6 * o),
}


def test_every_family_has_a_formula() -> None:
    assert set(FORMULAS) == set(FAMILIES)


@pytest.mark.parametrize("family", FORMULAS)
def test_parameter_formula(family: str) -> None:
    options, formula = FORMULAS[family]
    for inputs, outputs in ((24, 24), (24, 48), (48, 24)):
        expected = formula(inputs, outputs)
        if expected is not None:
            assert sp.fabric(family, inputs, outputs, **options).parameters == expected
