"""Hostile arguments to the native core: each gets a sentence, none a crash."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from sparsify.native import library
from tests.support import native
from tests.support.native import (
    BLOCKS,
    GRAPH,
    PERMUTATION,
    TRANSPOSE,
    Compiled,
    CoreError,
    Type,
)
from tests.support.native_calls import RICH, Call
from tests.support.native_fuzz import check_damaged, random_fabric
from tests.support.paths import run_python

pytestmark = pytest.mark.skipif(library.path() is None, reason=str(library.why_not()))


def described(inputs: int, outputs: int, *steps: Sequence[int]) -> list[int]:
    """A description of one branch."""
    return [inputs, outputs, 1, len(steps), *(number for step in steps for number in step)]


MOST = 2**63 - 1
GOOD = (BLOCKS, 2, 3, 4, 1)

BAD: dict[str, tuple[list[int], list[int]]] = {
    "nothing": ([], []),
    "widths alone": ([8, 6], []),
    "no branch": ([8, 6, 0], []),
    "no branch, but steps": ([8, 6, 0, *GOOD], []),
    "negative branches": ([8, 6, -1, *GOOD], []),
    "endless branches": ([8, 6, MOST], []),
    "more branches than numbers": ([8, 6, 2, 1, *GOOD], []),
    "a branch of no steps": ([8, 6, 1, 0], []),
    "a branch of negative steps": ([8, 6, 1, -1], []),
    "a branch of endless steps": ([8, 6, 1, MOST, *GOOD], []),
    "steps that overflow together": ([8, 6, 3, MOST, MOST, 3, *GOOD], []),
    "steps that overflow times five": ([8, 6, 1, 2**64 // 5 + 1, 0, 0, 0, 0], []),
    "steps of 2 ** 61": ([8, 6, 1, 2**61, *GOOD], []),
    "too short by one": (described(8, 6, GOOD)[:-1], []),
    "too long by one": ([*described(8, 6, GOOD), 0], []),
    "too long by a step": ([*described(8, 6, GOOD), *GOOD], []),
    "an unknown kind": (described(8, 6, (4, 2, 3, 4, 1)), []),
    "a negative kind": (described(8, 6, (-1, 2, 3, 4, 1)), []),
    "a kind of 2 ** 32": (described(8, 6, (2**32, 2, 3, 4, 1)), []),
    "no weights": (described(8, 8, (TRANSPOSE, 8, 2, 0, 0)), []),
    "inputs of zero": (described(0, 6, GOOD), []),
    "outputs of zero": (described(8, 0, GOOD), []),
    "negative inputs": (described(-8, 6, GOOD), []),
    "negative outputs": (described(8, -6, GOOD), []),
    "endless inputs": (described(MOST, 6, GOOD), []),
    "endless outputs": (described(8, MOST, GOOD), []),
    "the least inputs": (described(-(2**63), 6, GOOD), []),
    "a first step that is too narrow": (described(9, 6, GOOD), []),
    "a first step twice as wide": (described(4, 6, GOOD), []),
    "a last step that is too narrow": (described(8, 7, GOOD), []),
    "a last step twice as wide": (described(8, 3, GOOD), []),
    "steps that disagree": (described(8, 6, GOOD, (BLOCKS, 1, 6, 5, 1)), []),
    "a shuffle that disagrees": (described(8, 6, GOOD, (TRANSPOSE, 8, 2, 0, 0)), []),
    **{
        f"blocks {sizes}": (described(8, 6, (BLOCKS, *sizes)), [])
        for sizes in (
            (0, 3, 4, 1),
            (2, 0, 4, 1),
            (2, 3, 0, 1),
            (2, 3, 4, 0),
            (-2, 3, -4, 1),
            (2, -3, 4, -1),
            (-1, -1, -1, -1),
            (-(2**63), 3, 4, 1),
            (2**62, 3, 4, 2),
            (2**32, 3, 2**32, 1),
            (2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1),
            (8, 3, 2**61, 1),
            (1, 3, 2**63 - 1, 2),
        )
    },
    "more features than there can be": (described(2**40, 2**40, (BLOCKS, 2**40, 1, 1, 1)), []),
    "2 ** 62 features": (described(2**62, 2**62, (BLOCKS, 1, 1, 1, 2**62)), []),
    "the square of 2 ** 31": (described(2**31, 2**31, (BLOCKS, 1, 2**31, 2**31, 1)), []),
    "a stride of zero": (described(8, 6, (TRANSPOSE, 8, 0, 0, 0), GOOD), []),
    "a negative stride": (described(8, 6, (TRANSPOSE, 8, -2, 0, 0), GOOD), []),
    "the least stride": (described(8, 6, (TRANSPOSE, -(2**63), -1, 0, 0), GOOD), []),
    "a stride that does not divide": (described(8, 6, (TRANSPOSE, 8, 3, 0, 0), GOOD), []),
    "a transposition of nothing": (described(8, 6, (TRANSPOSE, 0, 1, 0, 0), GOOD), []),
    "an endless transposition": (described(8, 6, (TRANSPOSE, MOST, 1, 0, 0), GOOD), []),
    "a stride beyond the size": (described(8, 6, (TRANSPOSE, 8, 16, 0, 0), GOOD), []),
    **{
        f"a permutation {size} from {start}": (
            described(8, 6, (PERMUTATION, size, start, 0, 0), GOOD),
            list(range(8)),
        )
        for size, start in (
            (8, 1),
            (8, -1),
            (8, 8),
            (8, MOST),
            (8, MOST - 6),
            (8, -(2**63)),
            (0, 0),
            (-8, 8),
            (9, 0),
            (MOST, 0),
            (MOST, MOST),
        )
    },
    "a permutation of no indices": (described(8, 6, (PERMUTATION, 8, 0, 0, 0), GOOD), []),
    **{
        f"a permutation that reads {value}": (
            described(8, 6, (PERMUTATION, 8, 0, 0, 0), GOOD),
            [0, 1, 2, 3, 4, 5, 6, value],
        )
        for value in (-1, 8, 6, 2**32 + 7, MOST, -(2**63))
    },
    **{
        f"a graph {sizes}": (described(8, 6, (GRAPH, *sizes)), [0, 1] * 6)
        for sizes in (
            (8, 6, 2, 1),
            (8, 6, 2, -1),
            (8, 6, 2, 12),
            (8, 6, 2, MOST),
            (8, 6, 3, 0),
            (8, 6, 0, 0),
            (8, 6, -2, 0),
            (8, 0, 2, 0),
            (8, -6, -2, 0),
            (0, 6, 2, 0),
            (-8, 6, 2, 0),
            (8, 2**62, 4, 0),
            (8, 2**32, 2**32, 0),
            (8, MOST, MOST, MOST),
            (8, 6, 9, 0),
        )
    },
    **{
        f"a graph that reads {value}": (
            described(8, 6, (GRAPH, 8, 6, 2, 0)),
            [0, 1] * 5 + [0, value],
        )
        for value in (-1, 8, 2**32, MOST, -(2**63))
    },
    "a later branch": ([8, 6, 2, 1, 1, *GOOD, BLOCKS, 2, 3, 3, 1], []),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_description_is_refused(name: str) -> None:
    with pytest.raises(CoreError) as caught:
        Compiled(*BAD[name])
    assert str(caught.value).strip().endswith(".")


def test_good_ones_beside_the_bad_ones() -> None:
    """The table above says something only if its descriptions are one step from good ones."""
    Compiled(described(8, 6, GOOD))
    Compiled(described(8, 6, (TRANSPOSE, 8, 2, 0, 0), GOOD))
    Compiled(described(8, 6, (PERMUTATION, 8, 0, 0, 0), GOOD), range(8))
    Compiled(described(8, 6, (GRAPH, 8, 6, 2, 0)), [0, 1] * 6)
    Compiled([8, 6, 2, 1, 1, *GOOD, *GOOD])
    Compiled(described(5, 4, GOOD))  # wraps 3 features, folds 2


AMPLIFIED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
from tests.support.native import BLOCKS, TRANSPOSE, Compiled, CoreError
wide = 2**24
for step in ((BLOCKS, wide, 1, 1, 1), (BLOCKS, 1, 1, 1, wide), (TRANSPOSE, wide, 2, 0, 0)):
    steps = [*step] * 2000 + [BLOCKS, wide, 1, 1, 1]
    try:
        Compiled([wide, wide, 1, 2001, *steps])
    except CoreError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of memory")
def test_a_small_description_cannot_ask_for_much_memory() -> None:
    """A file may bring thousands of steps of sizes that are good one by one."""
    messages = run_python("-c", AMPLIFIED).stdout.splitlines()
    assert len(messages) == 3
    assert not any("memory" in message for message in messages), "it had to run out of it first"


@pytest.mark.parametrize("kind", [0, 2, 7, 9, 12, -1, 2**31 - 1])
def test_an_unknown_type_is_refused(kind: int) -> None:
    call = Call(RICH, 3)
    call.kind = Type("float32", kind, np.float32, 0)
    with pytest.raises(CoreError, match="type"):
        call.forward()
    with pytest.raises(CoreError, match="type"):
        call.backward()


@pytest.mark.parametrize("activation", [-1, 5, 2**31 - 1, -(2**31)])
def test_an_unknown_activation_is_refused(activation: int) -> None:
    with pytest.raises(CoreError, match="activation"):
        Call(RICH, 3).forward(activation)


def test_an_unknown_instruction_set_is_refused() -> None:
    used = native.core().sparsify_isa()
    for name in ("", "avx", "AVX2", "avx5120", "x" * 1000):
        with pytest.raises(CoreError):
            native.use_isa(name)
    assert native.core().sparsify_isa() == used
    assert native.instruction_sets()[0] == used.decode(), "the best one is not in use"


def test_damaged_descriptions() -> None:
    refused = sum(check_damaged(random_fabric(random.Random(n), 40), n) for n in range(600))
    assert 400 < refused < 600
