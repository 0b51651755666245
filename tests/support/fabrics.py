"""Fabrics to test with, and what they mean, written down a second time and differently."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st
from torch import Tensor

from sparsify.errors import ConfigError
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage, Step, Weighted
from sparsify.ops.kernels import KERNELS
from sparsify.ops.kernels.base import Request
from sparsify.topology import TOPOLOGIES, build

Matrix = npt.NDArray[np.float64]

CORNERS = (1, 2, 3, 5, 7, 11, 13, 15, 16, 17, 24, 31, 32, 33, 47, 61, 63, 64, 65)
"""Widths that break things: the smallest, primes, powers of two and their neighbours."""

WIDEST = 256
"""Features of a hidden layer that a random fabric may have: larger ones only take time."""

WORDS = ("adjacency", "dimensions", "circulant", "cayley", "ramanujan")
"""What options that are text may be."""


def sizes(count: int, seed: int, highest: int = 72) -> Iterator[tuple[int, int]]:
    """Pairs of widths: all pairs of small corners first, then corners against anything."""
    rng = random.Random(seed)
    corners = itertools.product((1, 2, 3, 7, 16), repeat=2)
    for pair in itertools.islice(corners, count):
        yield pair
    for _ in range(count - 25):
        pair = [rng.choice(CORNERS), rng.randint(1, highest)]
        rng.shuffle(pair)
        yield pair[0], pair[1]


def random_fabrics(family: str, count: int, seed: int = 0) -> Iterator[Fabric]:
    """Fabrics of a family: half from its own candidates, half from any options it accepts."""
    rng = random.Random(seed)
    for number, (inputs, outputs) in enumerate(sizes(count, seed)):
        options = _any_options if number % 2 else _candidate
        yield options(family, inputs, outputs, rng) or _candidate(family, inputs, outputs, rng)


def _candidate(family: str, inputs: int, outputs: int, rng: random.Random) -> Fabric:
    topology = rng.choice(list(TOPOLOGIES[family].candidates(inputs, outputs)))
    if topology.grows is not None:
        size = rng.randint(1, min(4, topology.most(inputs, outputs)))
        topology = dataclasses.replace(topology, **{topology.grows: size})
    return topology.build(inputs, outputs)


def _any_options(family: str, inputs: int, outputs: int, rng: random.Random) -> Fabric | None:
    """The first of a hundred random settings that the family takes; the others must be refused."""
    for _ in range(100):
        fabric = built(family, inputs, outputs, random_options(family, rng, max(inputs, outputs)))
        if fabric is not None and max(step.out_features for step in fabric.stages) <= WIDEST:
            return fabric
    return None


def random_options(family: str, rng: random.Random, highest: int) -> dict[str, Any]:
    """Values of the right type for a random choice of a family's options."""
    draw = {
        "int": lambda: rng.randint(1, max(2, highest // rng.choice((1, 1, 4, 8)))),
        "bool": lambda: rng.random() < 0.5,
        "Sequence[int]": lambda: tuple(rng.randint(2, 9) for _ in range(rng.randint(1, 4))),
        "str": lambda: rng.choice(("a", *WORDS)),
        "seed": lambda: rng.randint(0, 2**64),
    }
    return {
        field.name: draw[_kind(field)]()
        for field in dataclasses.fields(TOPOLOGIES[family])
        if field.default is dataclasses.MISSING or rng.random() < 0.5
    }


def _kind(field: dataclasses.Field[Any]) -> str:
    """The type of an option, and of a seed that it is one."""
    return "seed" if field.name == "seed" else str(field.type).removesuffix(" | None")


def random_factors(fabric: Fabric, seed: int = 0, dtype: Any = torch.float64) -> list[Tensor]:
    """Standard normal weights for every stage."""
    random_ = torch.Generator().manual_seed(seed)
    return [
        torch.randn(stage.shape, generator=random_, dtype=torch.float64).to(dtype)
        for stage in fabric.stages
    ]


def dense_matrix(fabric: Fabric, factors: Sequence[Tensor]) -> Matrix:
    """The dense (out, in) matrix in plain numpy: blocks put where the definition says.

    A spatial stage adds its taps as leading axes: (*kernel, out, in).
    """
    weights = iter(factors)
    total: Matrix = np.zeros(1)
    for branch in fabric.branches:
        product = _wrap(branch[0].in_features, fabric.in_features)
        for step in branch:
            product = _step_matrix(step, weights) @ product
        total = total + _wrap(branch[-1].out_features, fabric.out_features).T @ product
    return total


def _wrap(wide: int, width: int) -> Matrix:
    """Reads feature i modulo width at place i; its transpose adds them up again."""
    return np.eye(width)[np.arange(wide) % width]


def _step_matrix(step: Step, weights: Iterator[Tensor]) -> Matrix:
    if isinstance(step, Shuffle):
        return np.eye(step.size)[step.permutation()]
    weight = next(weights).detach().double().cpu().numpy()
    matrix = np.zeros((*step.kernel, step.out_features, step.in_features))
    if isinstance(step, GraphStage):
        for row, inputs in enumerate(step.neighbours().tolist()):
            for edge, column in enumerate(inputs):
                matrix[..., row, column] += weight[row, edge]
        return matrix
    taps = np.moveaxis(weight, (2, 3), (-2, -1))  # (a, d, *kernel, b, c)
    for outer, inner in itertools.product(range(step.a), range(step.d)):
        rows = slice(outer * step.b * step.d + inner, (outer + 1) * step.b * step.d, step.d)
        columns = slice(outer * step.c * step.d + inner, (outer + 1) * step.c * step.d, step.d)
        matrix[..., rows, columns] = taps[outer, inner]
    return matrix


@st.composite
def any_fabrics(draw: st.DrawFn, kernels: bool = True, graphs: bool = True) -> Fabric:
    """Any valid fabric: branches of random stages and shuffles whose ends wrap and fold."""
    small = st.integers(1, 4)
    inputs, outputs = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    kernel = draw(st.sampled_from(((), (3,), (3, 3), (2, 1)))) if kernels else ()
    branches = []
    for _ in range(draw(st.integers(1, 3))):
        steps: list[Step] = []
        width = draw(st.integers(inputs, 2 * inputs - 1))
        for _ in range(draw(st.integers(0, 2))):
            if graphs and draw(st.booleans()):
                steps.append(_random_graph(draw, width, 48))
            else:
                steps.append(_random_stage(draw, width, draw(small)))
            width = steps[-1].out_features
            if draw(st.booleans()):
                steps.append(Shuffle(width, seed=draw(st.integers(0, 2**64))))
        last = draw(st.integers(outputs, 2 * outputs - 1))
        common = [n for n in range(1, min(width, last) + 1) if width % n == 0 and last % n == 0]
        split = draw(st.sampled_from(common))
        if graphs and draw(st.booleans()):  # `split` inputs in each class
            degree = width // split
            steps.append(GraphStage("random", width, last, degree, seed=draw(st.integers(0, 9))))
        else:
            steps.append(Stage(split, last // split, width // split, 1))
        place = next(i for i, step in enumerate(steps) if isinstance(step, Weighted))
        if kernel and draw(st.booleans()):
            steps[place] = dataclasses.replace(steps[place], kernel=kernel)
        branches.append(tuple(steps))
    return Fabric(inputs, outputs, tuple(branches))


def _random_stage(draw: st.DrawFn, width: int, outputs: int) -> Stage:
    divisors = [n for n in range(1, width + 1) if width % n == 0]
    inner = draw(st.sampled_from(divisors))
    outer = draw(st.sampled_from([n for n in divisors if (width // inner) % n == 0]))
    return Stage(outer, outputs, width // inner // outer, inner)


def _random_graph(draw: st.DrawFn, width: int, widest: int) -> GraphStage:
    """Of random matchings, or a hypercube where the width is a power of two."""
    bits = width.bit_length() - 1
    if bits and width == 2**bits and draw(st.booleans()):
        return GraphStage("hypercube", width, width * draw(st.integers(1, 2)), bits)
    size = draw(st.sampled_from([n for n in range(1, width + 1) if width % n == 0]))
    outputs = size * draw(st.integers(1, max(1, widest // size)))
    return GraphStage("random", width, outputs, width // size, seed=draw(st.integers(0, 2**64)))


def all_options(family: str, highest: int) -> Iterator[dict[str, Any]]:
    """Every setting of a family's options up to a size; most of them are refused."""
    numbers = range(1, highest + 1)
    values: dict[str, list[Any]] = {
        "int": [*numbers],
        "bool": [False, True],
        "Sequence[int]": [
            radices for length in (1, 2, 3) for radices in itertools.product(numbers, repeat=length)
        ],
        "str": [*WORDS],
        "seed": [1],
    }
    fields = dataclasses.fields(TOPOLOGIES[family])
    choices = [
        [_ABSENT] * (field.default is not dataclasses.MISSING) + values[_kind(field)]
        for field in fields
    ]
    for chosen in itertools.product(*choices):
        named = zip((field.name for field in fields), chosen, strict=True)
        yield {name: value for name, value in named if value is not _ABSENT}


_ABSENT = object()


def built(family: str, inputs: int, outputs: int, options: dict[str, Any]) -> Fabric | None:
    """The fabric, None where the family refuses the options."""
    try:
        return build(family, inputs, outputs, options)
    except ConfigError:
        return None


def is_served(kernel: str, fabric: Fabric, convolution: bool = False) -> bool:
    """Whether a kernel of the operators takes a fabric, in double precision on the CPU."""
    request = Request(fabric, "cpu", torch.float64, convolution)
    return KERNELS[kernel]().unsupported(request) is None


def jacobian(fabric: Fabric, factors: Sequence[Tensor]) -> Matrix:
    """Derivative of the flattened dense matrix by every weight, (out * in, parameters).

    By hand: moving weight (i, j) of a factor moves the product by left[:, i] times right[j, :].
    """
    weights = iter(factors)
    columns = []
    for branch in fabric.branches:
        steps = [_step_matrix(step, weights) for step in branch]
        right = _wrap(branch[0].in_features, fabric.in_features)
        for place, (step, matrix) in enumerate(zip(branch, steps, strict=True)):
            left = _wrap(branch[-1].out_features, fabric.out_features).T
            for after in reversed(steps[place + 1 :]):
                left = left @ after
            if isinstance(step, Weighted):
                rows, inner = np.nonzero(step.mask())
                columns.append(np.einsum("op,pi->oip", left[:, rows], right[inner]))
            right = matrix @ right
    joined = np.concatenate(columns, axis=2)
    return joined.reshape(fabric.out_features * fabric.in_features, joined.shape[2])
