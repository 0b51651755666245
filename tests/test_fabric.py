"""The fabric IR: what may be constructed, what it counts, what it means, how it travels."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify.errors import ConfigError
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage, Weighted
from sparsify.steps.scramble import permutations, round_keys
from tests.support.fabrics import any_fabrics, dense_matrix, random_factors

SQUARE = Stage(1, 4, 4, 1)
MONARCH = Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),), "monarch(blocks=4)")
SPATIAL = Stage(1, 4, 4, 1, (3, 3))
GRAPH = GraphStage("random", 16, 16, 4, seed=1)

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
        "without wrap, shuffle and graph",
    ),
    "repeat with a graph": (lambda: Fabric(16, 16, ((GRAPH,),)).repeat(2), "shuffle and graph"),
    "transposed graph": (
        lambda: Fabric(16, 16, ((GRAPH,),)).transposed(),
        "random:16->16 degree 4",
    ),
    "graph without a name": (lambda: GraphStage("", 16, 16, 4), "There is no graph ''"),
    "graph misspelt": (lambda: GraphStage("randon", 16, 16, 4), "Did you mean 'random'"),
    "graph of no inputs": (lambda: GraphStage("random", 0, 16, 4), "in_features=0"),
    "graph of float outputs": (lambda: GraphStage("random", 16, 16.0, 4), "out_features=16.0"),
    "graph of no degree": (lambda: GraphStage("random", 16, 16, 0), "degree=0"),
    "degree beyond the inputs": (lambda: GraphStage("random", 16, 16, 32), "got degree 32"),
    "degree that does not divide": (lambda: GraphStage("random", 16, 16, 3), "got degree 3"),
    "classes that do not fit": (lambda: GraphStage("random", 16, 18, 4), "divides 16 inputs"),
    "graph with options": (lambda: GraphStage("random", 16, 16, 4, (1,)), "no options"),
    "options in a list": (lambda: GraphStage("random", 16, 16, 4, [1]), "a tuple; got [1]"),
    "negative seed of a graph": (lambda: GraphStage("random", 16, 16, 4, seed=-1), "got -1"),
    "float seed of a graph": (lambda: GraphStage("random", 16, 16, 4, seed=0.5), "got 0.5"),
    "graph with a zero tap": (lambda: GraphStage("random", 16, 16, 4, kernel=(3, 0)), "=0"),
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
    "graph without a degree": '{"in":4,"out":4,"branches":[[{"graph":"random","in":4,"out":4}]]}',
    "unknown graph": ('{"in":4,"out":4,"branches":[[{"graph":"rand","in":4,"out":4,"degree":2}]]}'),
    "options of a graph that are no list": (
        '{"in":4,"out":4,"branches":[[{"graph":"random","in":4,"out":4,"degree":2,"options":3}]]}'
    ),
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
    stages = [step for branch in fabric.branches for step in branch if isinstance(step, Weighted)]
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
    things = ((MONARCH, "family"), (SQUARE, "a"), (Shuffle(4, seed=1), "seed"), (GRAPH, "degree"))
    for thing, field in things:
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
    # So that another platform or numpy would show here, and no file changes its meaning.
    Shuffle(8, seed=0): [5, 7, 4, 3, 1, 6, 0, 2],
    Shuffle(8, seed=1): [7, 4, 5, 2, 0, 1, 3, 6],
    Shuffle(8, seed=2**64 - 1): [6, 4, 0, 5, 1, 2, 7, 3],
    Shuffle(12, seed=20260101): [11, 8, 3, 5, 2, 4, 10, 1, 7, 9, 0, 6],
    Shuffle(6, stride=2): [0, 2, 4, 1, 3, 5],
    Shuffle(6, stride=3): [0, 3, 1, 4, 2, 5],
    Shuffle(4, stride=1): [0, 1, 2, 3],
    Shuffle(4, stride=4): [0, 1, 2, 3],
}

PRIME = 2**31 - 1


def splitmix64(seed: int, index: int) -> int:
    """Word `index` of the published generator's mix, in Python's own integers."""
    whole = 2**64
    state = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xBF58476D1CE4E5B9) % whole
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % whole
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % whole
    return state ^ (state >> 31)


def encrypted(position: int, seed: int) -> int:
    """What a position is sorted by: three rounds of a power map, in Python's own integers."""
    for index in range(3):
        position = pow(position + splitmix64(seed, index) % PRIME, 5, PRIME)
    return position


@pytest.mark.parametrize("shuffle", PINNED, ids=str)
def test_permutations_are_pinned(shuffle: Shuffle) -> None:
    assert shuffle.permutation().tolist() == PINNED[shuffle]


@given(st.integers(1, 6), st.integers(1, 200), st.integers(-5, 2**64 + 5))
def test_permutations_sort_encrypted_positions(count: int, size: int, seed: int) -> None:
    found = permutations(count, size, seed)
    assert found.dtype == np.int64
    for row in range(count):
        keys = [encrypted(row * size + place, seed) for place in range(size)]
        assert len(set(keys)) == size
        assert found[row].tolist() == sorted(range(size), key=keys.__getitem__)
    assert (Shuffle(size, seed=seed).permutation() == found[0]).all()


def test_the_cipher_maps_no_two_positions_to_one() -> None:
    """Raising to the fifth power has an inverse modulo the prime: to the power of this."""
    assert all(PRIME % factor for factor in range(2, math.isqrt(PRIME) + 1)), "not a prime"
    inverse = pow(5, -1, PRIME - 1)
    for number in (0, 1, 2, 12345, 2**30, PRIME - 1):
        assert pow(pow(number, 5, PRIME), inverse, PRIME) == number
    assert max(round_keys(7)) < PRIME


def test_permutations_look_random() -> None:
    """Fixed points and inversions of independent uniform permutations, within five deviations."""
    count, size = 2000, 40
    found = permutations(count, size, 3)
    assert abs((found == np.arange(size)).sum() - count) < 5 * math.sqrt(count)
    inversions = sum((found[:, i, None] > found[:, i:]).sum() for i in range(size))
    variance = count * size * (size - 1) * (2 * size + 5) / 72
    assert abs(inversions - count * size * (size - 1) / 4) < 5 * math.sqrt(variance)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**64))
def test_random_graphs_are_lifts(size: int, degree: int, classes: int, seed: int) -> None:
    """Class by class a permutation: every output has one input of each class."""
    stage = GraphStage("random", size * degree, size * classes, degree, seed=seed)
    blocks = stage.mask().reshape(classes, size, degree, size)
    assert (blocks.sum(1) == 1).all()
    assert (blocks.sum(3) == 1).all()
    assert stage.parameters == stage.mask().sum() == size * classes * degree


@given(st.integers(1, 40), st.integers(1, 40))
def test_stride_transposes(rows: int, columns: int) -> None:
    shuffle = Shuffle(rows * columns, stride=columns)
    order = shuffle.permutation()
    assert sorted(order) == list(range(rows * columns))
    assert (order == [i * columns + j for j in range(columns) for i in range(rows)]).all()
    assert (shuffle.mask() @ np.arange(shuffle.size) == order).all()
    assert shuffle.in_features == shuffle.out_features == shuffle.size
