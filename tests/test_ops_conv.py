"""The convolution operator against torch's dense convolution with the materialised weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsify.fabric import Fabric, Stage
from sparsify.ops import OperandError, fabric_conv, use_kernel
from tests.support.fabrics import dense_matrix, random_factors
from tests.support.kernels import kernels_for, pairs_for
from tests.support.linear_cases import FABRICS

SMALL = {name: fabric for name, fabric in FABRICS.items() if name != "wide"}
kernels = pytest.mark.parametrize("kernel", kernels_for(convolution=True))
pairs = pytest.mark.parametrize(("kernel", "name"), pairs_for(SMALL, convolution=True))
others = pairs_for(SMALL, convolution=True, without=("reference",))

WINDOWS = {
    "1d": ((3,), (70,), {}),
    "1d, padded": ((3,), (9,), {"padding": 2}),
    "2d": ((3, 3), (6, 7), {"padding": 1}),
    "2d, all": ((3, 2), (9, 8), {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1)}),
    "3d": ((2, 3, 1), (4, 5, 3), {"stride": (1, 2, 2), "padding": (1, 0, 2)}),
    "1 x 1": ((1, 1), (5, 4), {}),
    "1 x 1, strided": ((1, 1), (6, 5), {"stride": (2, 3), "padding": (0, 1)}),
    "transposed 1d": ((3,), (9,), {"transposed": True}),
    "transposed 1d, doubled": ((2,), (40,), {"stride": 2, "transposed": True}),
    "transposed 2d, all": (
        (3, 2),
        (5, 4),
        {
            "stride": (2, 3),
            "padding": (1, 2),
            "dilation": (2, 1),
            "output_padding": (1, 2),
            "transposed": True,
        },
    ),
    "transposed 3d": (
        (2, 3, 1),
        (3, 4, 2),
        {"stride": (1, 2, 2), "padding": (1, 0, 0), "output_padding": 0, "transposed": True},
    ),
    "transposed 1 x 1": (
        (1, 1),
        (4, 3),
        {"stride": (2, 3), "padding": (1, 2), "output_padding": (1, 2), "transposed": True},
    ),
    "transposed 1 x 1, more than a stride": (
        (1, 1),
        (4, 3),
        {"dilation": (2, 3), "stride": (1, 2), "output_padding": (1, 2), "transposed": True},
    ),
}


def dense_weight(fabric: Fabric, factors: list[Tensor], axes: int) -> Tensor:
    """The weight of the dense convolution, (out, in, *kernel)."""
    matrix = torch.from_numpy(dense_matrix(fabric, factors))
    taps = fabric.kernel or (1,) * axes
    matrix = matrix.reshape(*taps, fabric.out_features, fabric.in_features)
    return matrix.permute(axes, axes + 1, *range(axes)).contiguous()


def convolve(x: Tensor, weight: Tensor, *, transposed: bool = False, **options: Any) -> Tensor:
    """What torch computes with a weight (out, in, *kernel)."""
    axes = weight.dim() - 2
    if transposed:
        back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        return back(x, weight.transpose(0, 1), **options)
    return (F.conv1d, F.conv2d, F.conv3d)[axes - 1](x, weight, **options)


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("window", WINDOWS)
@pairs
def test_convolution_is_the_dense_one(kernel: str, window: str, name: str) -> None:
    taps, positions, options = WINDOWS[window]
    fabric = FABRICS[name].with_kernel(taps)
    factors = random_factors(fabric)
    weight = dense_weight(fabric, factors, len(taps))
    for samples in (0, 1, 5):
        x = data(samples, fabric.in_features, *positions).requires_grad_()
        expected = convolve(x, weight, **options)
        with use_kernel(kernel):
            y = fabric_conv(x, factors, fabric, **options)
            assert y.is_contiguous()
            assert torch.allclose(y, expected, rtol=1e-10, atol=1e-10)
            grad = data(*y.shape, seed=1)
            (found,) = torch.autograd.grad(y, x, grad)
        (wanted,) = torch.autograd.grad(expected, x, grad)
        assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "window",
    ["1d", "2d, all", "1 x 1, strided", "transposed 1d", "transposed 2d, all", "transposed 1 x 1"],
)
@pytest.mark.parametrize(("kernel", "name"), others)
def test_gradients_agree_with_the_reference(kernel: str, window: str, name: str) -> None:
    """For every choice of gradients; those of the reference are checked in test_ops_torch."""
    taps, positions, options = WINDOWS[window]
    fabric = FABRICS[name].with_kernel(taps)
    factors = random_factors(fabric)
    x = data(3, fabric.in_features, *positions)
    rest = [_per_axis(options.get(key, fill), len(taps)) for key, fill in DEFAULTS.items()]
    arguments = (x, factors, fabric.to_json(), *rest)
    grad = data(*torch.ops.sparsify.fabric_conv(*arguments).shape, seed=1)
    count = len(factors) + 1
    for asked in range(1, 2**count):
        needs = [bool(asked >> place & 1) for place in range(count)]
        found = {}
        for which in ("reference", kernel):
            with use_kernel(which):
                found[which] = torch.ops.sparsify.fabric_conv_backward(grad, *arguments, needs)
        assert len(found[kernel]) == sum(needs)
        for actual, wanted in zip(found[kernel], found["reference"], strict=True):
            assert torch.allclose(actual, wanted, rtol=1e-10, atol=1e-10)


DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "transposed": False, "output_padding": 0}


def _per_axis(value: Any, axes: int) -> Any:
    if isinstance(value, bool):
        return value
    return [value] * axes if isinstance(value, int) else list(value)


@kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision(kernel: str, dtype: torch.dtype) -> None:
    fabric = FABRICS["monarch"].with_kernel((3, 3))
    factors = [factor / 4 for factor in random_factors(fabric)]
    x = data(2, 16, 9, 9)
    exact = F.conv2d(x, dense_weight(fabric, factors, 2), padding=1)
    with use_kernel(kernel):
        y = fabric_conv(x.to(dtype), [f.to(dtype) for f in factors], fabric, padding=1)
    assert y.dtype == dtype
    assert (y.double() - exact).abs().max() <= 1.6e-2 * exact.abs().max()


@kernels
def test_any_strides(kernel: str) -> None:
    fabric = FABRICS["branches"].with_kernel((3, 3))
    factors = random_factors(fabric)
    weight = dense_weight(fabric, factors, 2)
    channels_last = data(2, 15, 6, 6).to(memory_format=torch.channels_last)
    turned = data(6, 6, 15, 2).permute(3, 2, 1, 0)
    with use_kernel(kernel):
        for x in (channels_last, turned, turned[:, :, ::2]):
            y = fabric_conv(x, factors, fabric)
            assert torch.allclose(y, F.conv2d(x, weight), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (data(2, 5, 6, 6), {}, r"needs 4 features on axis 1; got shape \(2, 5, 6, 6\)"),
        (data(4, 6, 6), {}, r"kernel of 2 axes.*has 1"),
        (data(4), {}, r"over 0 spatial axes"),
        (data(2, 4, 6, 6), {"stride": (1, 1, 1)}, "over 3 spatial axes needs an input of 5 axes"),
        (data(2, 4, 6, 6), {"stride": 0}, "stride and dilation of 1 or more"),
        (data(2, 4, 6, 6), {"padding": -1}, "padding of 0 or more"),
        (data(2, 4, 6, 6), {"output_padding": 1}, r"of other convolutions 0\); got \(1, 1\)"),
        (
            data(2, 4, 6, 6),
            {"transposed": True, "stride": 2, "output_padding": (0, 2)},
            r"less than its stride or dilation.*got \(0, 2\)",
        ),
        (data(2, 4, 6, 6), {"transposed": True, "output_padding": (0, -1)}, "0 or more"),
        (data(2, 4, 6, 6), {"transposed": True, "output_padding": (0, 0, 0)}, "0 or more"),
    ],
)
def test_wrong_operands(x: Tensor, options: dict[str, int], message: str) -> None:
    fabric = Fabric(4, 4, ((Stage(1, 4, 4, 1, kernel=(3, 3)),),))
    with pytest.raises(OperandError, match=message):
        fabric_conv(x, random_factors(fabric), fabric, **options)


def test_all_branches_need_the_kernel() -> None:
    fabric = Fabric(4, 4, ((Stage(1, 4, 4, 1, kernel=(3,)),), (Stage(2, 2, 2, 1),)))
    with pytest.raises(OperandError, match="Every branch"):
        fabric_conv(data(1, 4, 6), random_factors(fabric), fabric)
