"""Every family, over the table: sizes, dead weights, budgets, options; and the oracle facts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sparsify as sp
from sparsify.fabric import Fabric, Stage
from sparsify.ops import fabric_linear
from sparsify.topology import TOPOLOGIES, build
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


@pytest.mark.parametrize("family", FAMILIES)
def test_hardly_any_weight_is_there_twice(family: str) -> None:
    for inputs, outputs in sizes(100, seed=2):
        for topology in TOPOLOGIES[family].candidates(inputs, outputs):
            fabric = topology.build(inputs, outputs)
            masks = (matrix for matrices in fabric.mask() for matrix in matrices)
            doubled = sum(int((mask - 1).clip(0).sum()) for mask in masks)
            assert doubled <= 0.05 * fabric.parameters, fabric


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
    options = all_options(family, max(inputs, outputs))
    fabrics = (built(family, inputs, outputs, option) for option in options)
    least = min(fabric.parameters for fabric in fabrics if fabric is not None)
    dense = inputs * outputs
    if least <= dense:
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
        name, _, rest = fabric.family.partition("(")
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
]


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
}


@pytest.mark.parametrize("family", FORMULAS)
def test_parameter_formula(family: str) -> None:
    options, formula = FORMULAS[family]
    for inputs, outputs in ((24, 24), (24, 48), (48, 24)):
        expected = formula(inputs, outputs)
        if expected is not None:
            assert sp.fabric(family, inputs, outputs, **options).parameters == expected
