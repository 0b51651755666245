"""The ways of the convolution kernel: groups filled or paired, products, samples joined."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsify.fabric import Fabric, Stage
from sparsify.ops import Window, reference
from sparsify.ops.kernels.images import Images
from sparsify.ops.kernels.products import FEW_POSITIONS, MOST_COPIES
from sparsify.select.terms import CONVOLUTION, convolution_terms
from sparsify.steps.fitting import fitting
from tests.support.fabrics import random_factors

SIZES = (1, 2, 3, 4, 5, 7, 8, 10, 16)
WINDOWS = {
    "plain": Window((1, 1), (1, 1), (1, 1), False, (0, 0)),
    "strided": Window((2, 1), (1, 0), (1, 2), False, (0, 0)),
    "transposed": Window((2, 2), (1, 0), (1, 1), True, (1, 0)),
}


def _check(fabric: Fabric, window: Window, x: Tensor, *, is_near: bool = True) -> None:
    """Output and all gradients, against the reference."""
    factors = random_factors(fabric)
    bias = torch.linspace(-1, 1, fabric.out_features, dtype=torch.float64)
    images = Images(fabric, window, is_near)
    expected = reference.forward(x, factors, fabric, window)
    y = images.forward(x, factors, None)
    assert y.is_contiguous()
    assert torch.allclose(y, expected, rtol=1e-10, atol=1e-10)
    biased = images.forward(x, factors, bias)
    assert torch.allclose(biased, expected + bias.view(-1, 1, 1), rtol=1e-10, atol=1e-10)
    grad = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    for needs in itertools.product((False, True), repeat=len(factors) + 1):
        wanted = reference.backward(grad, x, factors, fabric, needs, window)
        found = images.backward(grad, x, factors, needs)
        for one, other in zip(found, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def _image(samples: int, channels: int, *positions: int) -> Tensor:
    count = samples * channels * positions[0] * positions[1]
    return (
        torch.linspace(-1, 1, count, dtype=torch.float64).sin().view(samples, channels, *positions)
    )


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("b", SIZES)
def test_groups_of_any_size(window: str, b: int) -> None:
    for c in SIZES:
        for a, d in ((1, 1), (4, 1), (1, 4), (3, 1), (2, 3)):
            stage = Stage(a, b, c, d, (3, 2))
            fabric = Fabric(stage.in_features, stage.out_features, ((stage,),))
            _check(fabric, WINDOWS[window], _image(2, fabric.in_features, 5, 4))


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Stage(1, 7, 9, 1), (7, 9, False)),
        (Stage(8, 1, 1, 1), (1, 1, False)),
        (Stage(4, 2, 2, 4), (2, 2, True)),
        (Stage(4, 1, 2, 1), (1, 2, True)),
        (Stage(3, 2, 2, 1), (4, 4, False)),
        (Stage(4, 3, 4, 1), (4, 4, False)),
        (Stage(4, 8, 16, 1), (8, 16, False)),
        (Stage(1, 7, 12, 2), (8, 16, False)),
    ],
)
def test_sizes_with_fast_code(stage: Stage, expected: tuple[int, int, bool]) -> None:
    assert fitting(stage) == expected


STAGES: dict[str, tuple[Stage, ...]] = {
    "blocks": (Stage(4, 3, 5, 1),),
    "strided": (Stage(1, 3, 5, 4),),
    "dense": (Stage(1, 6, 8, 1),),
    "both ways": (Stage(2, 4, 3, 2),),
    "two": (Stage(4, 3, 2, 1), Stage(1, 5, 3, 4)),
    "three": (Stage(4, 3, 2, 1), Stage(1, 5, 3, 4), Stage(4, 2, 5, 1)),
}
SHAPES = [(1, 3, 4), (5, 1, 1), (4, 3, 3), (3, 17, 16), (0, 3, 3)]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stages_without_taps(name: str, shape: tuple[int, int, int]) -> None:
    samples, *positions = shape
    steps = STAGES[name]
    fabric = Fabric(steps[0].in_features, steps[-1].out_features, (steps,))
    x = (
        _image(samples, fabric.in_features, *positions)
        if samples
        else torch.zeros(0, fabric.in_features, *positions, dtype=torch.float64)
    )
    _check(fabric, Window((1, 1), (0, 0), (1, 1)), x)
    _check(fabric, Window((1, 1), (0, 0), (1, 1)), x, is_near=False)


def test_the_shapes_take_both_ways() -> None:
    """Samples joined and not, weights copied and not."""
    positions = [height * width for samples, height, width in SHAPES if samples > 1]
    assert min(positions) <= FEW_POSITIONS < max(positions)
    many = Stage(4, 200, 40, 1)
    assert 3 * many.parameters > MOST_COPIES
    fabric = Fabric(many.in_features, many.out_features, ((many,),))
    x = _image(3, fabric.in_features, 2, 3)
    expected = reference.forward(x, random_factors(fabric), fabric, WINDOWS["plain"])
    window = Window((1, 1), (1, 1), (1, 1))
    y = Images(fabric, window, True).forward(x, random_factors(fabric), None)
    assert torch.allclose(y, expected, rtol=1e-10)


@pytest.mark.parametrize("window", WINDOWS)
def test_branches_of_all_kinds(window: str) -> None:
    fabric = Fabric(
        6,
        10,
        (
            (Stage(2, 4, 3, 1), Stage(1, 3, 2, 4, (3, 2))),  # folds
            (Stage(2, 3, 4, 1, (3, 2)), Stage(1, 5, 3, 2)),  # wraps
            (Stage(1, 10, 6, 1, (3, 2)),),
        ),
    )
    _check(fabric, WINDOWS[window], _image(3, 6, 6, 5))
    _check(fabric, WINDOWS[window], _image(3, 6, 6, 5), is_near=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: torch.cat((x, x), 1)[:, ::2],
        lambda x: x[:, :, ::2],
        lambda x: x[:1].expand(3, -1, -1, -1),
    ],
)
def test_any_strides(change: Any) -> None:
    fabric = Fabric(12, 12, ((Stage(3, 4, 4, 1), Stage(1, 3, 3, 4, (3, 2)), Stage(3, 4, 4, 1)),))
    _check(fabric, WINDOWS["plain"], change(_image(3, 12, 8, 6)))
    points = Fabric(12, 12, ((Stage(3, 4, 4, 1), Stage(1, 3, 3, 4)),))
    _check(points, WINDOWS["strided"], change(_image(3, 12, 8, 6)))


def test_predictions_count_what_is_computed() -> None:
    """Zeros that fill groups cost time; a transposed convolution is the other one backwards."""
    steps = (Stage(1, 16, 16, 1), Stage(1, 7, 8, 2, (3, 3)))
    fabric = Fabric(16, 14, (steps,))
    work = CONVOLUTION.index("spatial multiply-adds")
    assert convolution_terms(fabric, 100, 400)[work] == 8 * 8 * 2 * 9 * 100
    down = Fabric(16, 16, ((Stage(2, 8, 8, 1, (2, 2)), Stage(1, 2, 2, 8)),))
    up = Fabric(16, 16, ((Stage(1, 2, 2, 8), Stage(2, 8, 8, 1, (2, 2))),))
    forth = convolution_terms(down, 100, 400)
    back = convolution_terms(up, 400, 100, transposed=True)
    exchanged = ("mixing inputs", "mixing outputs")
    for name, one, other in zip(CONVOLUTION, forth, back, strict=True):
        assert name in exchanged or one == other, name
