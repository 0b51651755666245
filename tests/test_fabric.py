"""The fabric IR: what may be constructed, what it counts, what it means, how it travels."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify.errors import ConfigError
from sparsify.fabric import Fabric, Shuffle, Stage
from tests.support.fabrics import any_fabrics, dense_matrix, random_factors

SQUARE = Stage(1, 4, 4, 1)
MONARCH = Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),), "monarch(blocks=4)")
SPATIAL = Stage(1, 4, 4, 1, (3, 3))

BAD: dict[str, tuple[Any, str]] = {
    "zero size": (lambda: Stage(0, 4, 4, 1), "a=0"),
    "negative size": (lambda: Stage(1, -4, 4, 1), "b=-4"),
    "float size": (lambda: Stage(1, 4, 4.0, 1), "c=4.0"),
    "bool size": (lambda: Stage(1, 4, 4, True), "d=True"),
    "text size": (lambda: Stage(1, "4", 4, 1), "b='4'"),
    "zero tap": (lambda: Stage(1, 4, 4, 1, (3, 0)), "taps=0"),
    "float tap": (lambda: Stage(1, 4, 4, 1, (3.0,)), "taps=3.0"),
    "list kernel": (lambda: Stage(1, 4, 4, 1, [3, 3]), "kernel"),
    "shuffle of nothing": (lambda: Shuffle(0, seed=0), "size=0"),
    "shuffle of no kind": (lambda: Shuffle(4), "exactly one of stride= and seed="),
    "shuffle of two kinds": (lambda: Shuffle(4, stride=2, seed=0), "exactly one"),
    "stride does not divide": (lambda: Shuffle(6, stride=4), "must divide its size 6; got 4"),
    "stride zero": (lambda: Shuffle(6, stride=0), "stride=0"),
    "float stride": (lambda: Shuffle(6, stride=2.0), "stride=2.0"),
    "float seed": (lambda: Shuffle(6, seed=0.5), "seed"),
    "no inputs": (lambda: Fabric(0, 4, ((SQUARE,),)), "in_features=0"),
    "no outputs": (lambda: Fabric(4, 0, ((SQUARE,),)), "out_features=0"),
    "float width": (lambda: Fabric(4.0, 4, ((SQUARE,),)), "in_features=4.0"),
    "no branches": (lambda: Fabric(4, 4, ()), "at least one branch"),
    "list of branches": (lambda: Fabric(4, 4, [(SQUARE,)]), "tuple of tuples"),
    "list of steps": (lambda: Fabric(4, 4, ([SQUARE],)), "tuple of tuples"),
    "empty branch": (lambda: Fabric(4, 4, ((),)), "at least one stage with weights"),
    "only a shuffle": (lambda: Fabric(4, 4, ((Shuffle(4, seed=0),),)), "at least one stage"),
    "neighbours disagree": (
        lambda: Fabric(4, 4, ((Stage(1, 3, 4, 1), SQUARE),)),
        "(1,3,4,1) writes 3 features, (1,4,4,1) reads 4",
    ),
    "first step too narrow": (lambda: Fabric(5, 4, ((SQUARE,),)), "first step"),
    "first step too wide": (lambda: Fabric(2, 4, ((SQUARE,),)), "2 to 3 features"),
    "last step too narrow": (lambda: Fabric(4, 5, ((SQUARE,),)), "last step"),
    "last step too wide": (lambda: Fabric(4, 2, ((SQUARE,),)), "2 to 3 features"),
    "two spatial stages": (lambda: Fabric(4, 4, ((SPATIAL, SPATIAL),)), "at most one spatial"),
    "two kernels": (
        lambda: Fabric(4, 4, ((SPATIAL,), (Stage(1, 4, 4, 1, (5, 5)),))),
        "share one kernel",
    ),
    "kernel twice": (lambda: Fabric(4, 4, ((SPATIAL,),)).with_kernel((3, 3)), "already: (3, 3)"),
    "kernel of zero": (lambda: MONARCH.with_kernel((0, 3)), "taps=0"),
    "repeat with a wrap": (lambda: Fabric(3, 4, ((SQUARE,),)).repeat(2), "without wrap"),
    "repeat with a shuffle": (
        lambda: Fabric(4, 4, ((Shuffle(4, stride=2), SQUARE),)).repeat(2),
        "without wrap and shuffle",
    ),
    "repeat no times": (lambda: MONARCH.repeat(0), "0"),
}

BAD_JSON = {
    "nothing": "",
    "no JSON": "{",
    "null": "null",
    "a number": "7",
    "a list": "[]",
    "no width": '{"out":4,"branches":[[[1,4,4,1]]]}',
    "no branches": '{"in":4,"out":4}',
    "branches of numbers": '{"in":4,"out":4,"branches":[1]}',
    "short stage": '{"in":4,"out":4,"branches":[[[1,4,4]]]}',
    "float stage": '{"in":4,"out":4,"branches":[[[1,4.5,4,1]]]}',
    "text stage": '{"in":4,"out":4,"branches":[["1441"]]}',
    "null step": '{"in":4,"out":4,"branches":[[null]]}',
    "shuffle without size": '{"in":4,"out":4,"branches":[[{"seed":1},[1,4,4,1]]]}',
    "width that does not fit": '{"in":9,"out":4,"branches":[[[1,4,4,1]]]}',
    "float width": '{"in":4.5,"out":4,"branches":[[[1,4,4,1]]]}',
    "text width": '{"in":"4","out":4,"branches":[[[1,4,4,1]]]}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_construction_says_what_is_wrong(name: str) -> None:
    make, fragment = BAD[name]
    with pytest.raises(ConfigError) as caught:
        make()
    assert fragment in str(caught.value)


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError):
        Fabric.from_json(BAD_JSON[name])


@pytest.mark.parametrize("a", [1, 2, 3])
@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_stage_mask_is_its_definition(a: int, b: int, c: int, d: int) -> None:
    stage = Stage(a, b, c, d)
    mask = np.zeros((stage.out_features, stage.in_features), int)
    for row in range(stage.out_features):
        for column in range(stage.in_features):
            outer, inner = row // (b * d), row % d
            mask[row, column] = outer == column // (c * d) and inner == column % d
    assert (stage.mask() == mask).all()
    blocks = np.kron(np.eye(a), np.kron(np.ones((b, c)), np.eye(d)))
    assert (stage.mask() == blocks).all()
    assert stage.parameters == mask.sum() == np.prod(stage.shape)


@given(any_fabrics())
def test_counts_agree_with_the_masks(fabric: Fabric) -> None:
    stages = [step for branch in fabric.branches for step in branch if isinstance(step, Stage)]
    weights = sum(int(stage.mask().sum()) * stage.taps for stage in stages)
    assert fabric.parameters == weights == sum(int(np.prod(s.shape)) for s in fabric.stages)
    assert fabric.flops(7) == 14 * weights
    assert fabric.stages == tuple(stages)
    assert fabric.density == weights / fabric.dense_parameters
    assert fabric.width <= min(fabric.in_features, fabric.out_features)


@given(any_fabrics(kernels=False))
def test_masks_wrap_and_fold_as_defined(fabric: Fabric) -> None:
    paths = np.zeros((fabric.out_features, fabric.in_features), int)
    for matrices in fabric.mask():
        product = np.eye(fabric.in_features, dtype=int)
        for matrix in matrices:
            product = matrix @ product
        paths += product
    expected = dense_matrix(fabric, [torch.ones(stage.shape) for stage in fabric.stages])
    assert (paths == expected).all()
    assert (fabric.paths() == expected).all()


@given(any_fabrics(kernels=False))
def test_width_is_the_generic_rank_or_more(fabric: Fabric) -> None:
    matrix = dense_matrix(fabric, random_factors(fabric))
    assert np.linalg.matrix_rank(matrix) <= fabric.width


@given(any_fabrics())
def test_json_round_trip(fabric: Fabric) -> None:
    again = Fabric.from_json(fabric.to_json())
    assert again == fabric
    assert hash(again) == hash(fabric)
    assert again.to_json() == fabric.to_json()
    assert " " not in fabric.to_json().replace(fabric.family, "")
    assert pickle.loads(pickle.dumps(fabric)) == fabric
    assert len(str(fabric).splitlines()) == 1


@given(any_fabrics(), any_fabrics())
def test_equal_exactly_when_built_alike(one: Fabric, other: Fabric) -> None:
    alike = (one.in_features, one.out_features, one.branches) == (
        other.in_features,
        other.out_features,
        other.branches,
    )
    assert (one == other) == alike
    named = dataclasses.replace(one, family="by hand")
    assert named == one
    assert hash(named) == hash(one)
    assert len({one, named}) == 1


def test_family_travels_though_it_does_not_count() -> None:
    assert Fabric.from_json(MONARCH.to_json()).family == "monarch(blocks=4)"
    assert json.loads(MONARCH.to_json())["branches"] == [[[4, 4, 4, 1], [1, 4, 4, 4]]]
    assert str(MONARCH) == (
        "monarch(blocks=4) 16 -> 16: (4,4,4,1) . (1,4,4,4), 128 parameters (50.0%)"
    )


def test_fabrics_are_frozen() -> None:
    for thing, field in ((MONARCH, "family"), (SQUARE, "a"), (Shuffle(4, seed=1), "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, 2)


def test_wrapped_inputs_are_read_again_and_folded_outputs_are_added() -> None:
    fabric = Fabric(3, 2, ((Stage(2, 1, 2, 1), Stage(1, 3, 2, 1)),))
    read, write = fabric.mask()[0]
    assert read.tolist() == [[1, 1, 0], [1, 0, 1]]
    assert write.tolist() == [[2, 2], [1, 1]]
    assert not fabric.is_exact
    assert MONARCH.is_exact


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (1, 3), (2, 3, 4)])
def test_the_smallest_stage_becomes_spatial(kernel: tuple[int, ...]) -> None:
    fabric = Fabric(16, 8, ((Stage(1, 4, 16, 1), Stage(1, 8, 4, 1)), (Stage(8, 1, 2, 1),)))
    spatial = fabric.with_kernel(kernel)
    taps = int(np.prod(kernel))
    assert spatial.kernel == kernel
    assert [stage.taps for stage in spatial.stages] == [1, taps, taps]
    assert spatial.parameters == 64 + taps * (32 + 16)
    assert spatial.density == spatial.parameters / (128 * taps)
    assert spatial.family == fabric.family


@pytest.mark.parametrize("kernel", [(), (1,), (1, 1), (1, 1, 1)])
def test_one_tap_changes_nothing(kernel: tuple[int, ...]) -> None:
    assert MONARCH.with_kernel(kernel) is MONARCH


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_repeat_is_side_by_side(groups: int) -> None:
    repeated = MONARCH.repeat(groups)
    assert repeated.in_features == repeated.out_features == 16 * groups
    assert repeated.parameters == MONARCH.parameters * groups
    assert (repeated.paths() == np.kron(np.eye(groups), MONARCH.paths())).all()


PINNED = {
    # Values of splitmix64, so that another platform or numpy would show here.
    Shuffle(8, seed=0): [2, 4, 6, 5, 1, 7, 0, 3],
    Shuffle(8, seed=1): [2, 5, 3, 4, 1, 6, 0, 7],
    Shuffle(8, seed=2**64 - 1): [3, 5, 0, 1, 4, 7, 2, 6],
    Shuffle(12, seed=20260101): [9, 1, 8, 7, 2, 6, 3, 11, 4, 10, 5, 0],
    Shuffle(6, stride=2): [0, 2, 4, 1, 3, 5],
    Shuffle(6, stride=3): [0, 3, 1, 4, 2, 5],
    Shuffle(4, stride=1): [0, 1, 2, 3],
    Shuffle(4, stride=4): [0, 1, 2, 3],
}


def splitmix64(seed: int, index: int) -> int:
    """Word `index` of the published generator, in Python's own integers."""
    whole = 2**64
    state = (seed * 0xBF58476D1CE4E5B9 + (index + 1) * 0x9E3779B97F4A7C15) % whole
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % whole
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % whole
    return state ^ (state >> 31)


@pytest.mark.parametrize("shuffle", PINNED, ids=str)
def test_permutations_are_pinned(shuffle: Shuffle) -> None:
    assert shuffle.permutation().tolist() == PINNED[shuffle]


@given(st.integers(1, 300), st.integers(-5, 2**64 + 5))
def test_seeded_shuffles_sort_splitmix64(size: int, seed: int) -> None:
    keys = [splitmix64(seed, index) for index in range(size)]
    expected = sorted(range(size), key=keys.__getitem__)
    assert Shuffle(size, seed=seed).permutation().tolist() == expected


@given(st.integers(1, 40), st.integers(1, 40))
def test_stride_transposes(rows: int, columns: int) -> None:
    shuffle = Shuffle(rows * columns, stride=columns)
    order = shuffle.permutation()
    assert sorted(order) == list(range(rows * columns))
    assert (order == [i * columns + j for j in range(columns) for i in range(rows)]).all()
    assert (shuffle.mask() @ np.arange(shuffle.size) == order).all()
    assert shuffle.in_features == shuffle.out_features == shuffle.size
