"""The fabric operator: every kernel against a dense matrix built independently."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from sparsify.errors import ConfigError
from sparsify.fabric import Branch, Fabric, GraphStage, Stage
from sparsify.ops import OperandError, fabric_linear, use_kernel
from tests.support.fabrics import any_fabrics, dense_matrix, is_served, random_factors
from tests.support.kernels import is_native, kernels_for, pairs_for
from tests.support.linear_cases import FABRICS

kernels = pytest.mark.parametrize("kernel", kernels_for())
pairs = pytest.mark.parametrize(("kernel", "name"), pairs_for(FABRICS))
SMALL = {name: fabric for name, fabric in FABRICS.items() if fabric.parameters <= 300}

LEADS = ((), (0,), (1,), (15,), (17,), (2, 0, 3), (2, 3, 4), (33,), (1000,))


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(x: Tensor, factors: list[Tensor], fabric: Fabric, grad: Tensor) -> list[Tensor]:
    inputs = [x, *factors]
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        y = fabric_linear(inputs[0], inputs[1:], fabric)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def dense_gradients(
    x: Tensor, factors: list[Tensor], fabric: Fabric, grad: Tensor
) -> list[np.ndarray]:
    """The output is linear in each weight: moving it by one moves the output by its gradient."""
    rows, out = x.reshape(-1, fabric.in_features).numpy(), fabric.out_features
    flow = grad.reshape(rows.shape[0], out).numpy()
    matrix = dense_matrix(fabric, factors)
    found = [(flow @ matrix).reshape(x.shape)]
    for place, factor in enumerate(factors):
        values = np.zeros(factor.shape)
        for index in np.ndindex(*factor.shape):
            moved = [tensor.clone() for tensor in factors]
            moved[place][index] += 1
            values[index] = np.sum(flow * (rows @ (dense_matrix(fabric, moved) - matrix).T))
        found.append(values)
    return found


def assert_close(actual: Tensor, expected: np.ndarray, tolerance: float = 1e-10) -> None:
    assert tuple(actual.shape) == expected.shape
    assert actual.is_contiguous()
    scale = np.abs(expected).max(initial=1e-3)
    assert np.abs(actual.double().numpy() - expected).max(initial=0) <= tolerance * scale


@pairs
def test_forward_is_the_dense_matrix(kernel: str, name: str) -> None:
    fabric = FABRICS[name]
    factors = random_factors(fabric)
    matrix = dense_matrix(fabric, factors)
    with use_kernel(kernel):
        for lead in LEADS:
            x = data(*lead, fabric.in_features)
            assert_close(fabric_linear(x, factors, fabric), x.numpy() @ matrix.T)


@pytest.mark.parametrize(("kernel", "name"), pairs_for(SMALL))
def test_gradients_are_those_of_the_dense_matrix(kernel: str, name: str) -> None:
    fabric = FABRICS[name]
    factors = random_factors(fabric)
    with use_kernel(kernel):
        for lead in ((), (0,), (3,), (2, 9)):
            x, grad = data(*lead, fabric.in_features), data(*lead, fabric.out_features, seed=1)
            expected = dense_gradients(x, factors, fabric, grad)
            for actual, wanted in zip(
                gradients(x, factors, fabric, grad)[1:], expected, strict=True
            ):
                assert_close(actual, wanted)


@pytest.mark.parametrize(("kernel", "name"), pairs_for(FABRICS, without=("reference",)))
def test_kernels_agree_with_the_reference(kernel: str, name: str) -> None:
    """Over every size of tile, float64 so that only the order of additions differs."""
    fabric = FABRICS[name]
    factors = random_factors(fabric)
    for rows in (1, 15, 16, 37, 700, 5000):
        x, grad = data(rows, fabric.in_features), data(rows, fabric.out_features, seed=1)
        with use_kernel("reference"):
            expected = gradients(x, factors, fabric, grad)
        with use_kernel(kernel):
            found = gradients(x, factors, fabric, grad)
        for actual, wanted in zip(found, expected, strict=True):
            assert_close(actual, wanted.numpy(), 1e-11)


@kernels
def test_wide_fabrics_over_several_tiles(kernel: str) -> None:
    fabric = Fabric(1000, 1024, ((Stage(32, 32, 32, 1), Stage(1, 32, 32, 32)),))
    factors = random_factors(fabric)
    matrix = dense_matrix(fabric, factors)
    x, grad = data(300, 1000), data(300, 1024, seed=1)
    with use_kernel(kernel):
        y, grad_x, *_ = gradients(x, factors, fabric, grad)
    assert_close(y, x.numpy() @ matrix.T)
    assert_close(grad_x, grad.numpy() @ matrix)


@kernels
@given(fabric=any_fabrics(kernels=False, graphs=False))
def test_any_fabric(kernel: str, fabric: Fabric) -> None:
    check_forward(kernel, fabric)


GRAPH = Fabric(4, 4, ((GraphStage("random", 4, 4, 2),),))


@pytest.mark.parametrize("kernel", kernels_for(GRAPH))
@given(fabric=any_fabrics(kernels=False))
def test_any_fabric_with_graphs(kernel: str, fabric: Fabric) -> None:
    check_forward(kernel, fabric)


def check_forward(kernel: str, fabric: Fabric) -> None:
    factors = random_factors(fabric)
    x = data(5, fabric.in_features)
    with use_kernel(kernel):
        assert_close(fabric_linear(x, factors, fabric), x.numpy() @ dense_matrix(fabric, factors).T)


@pairs
def test_bias_is_added_to_each_row(kernel: str, name: str) -> None:
    fabric = FABRICS[name]
    factors, bias = random_factors(fabric), data(2 * fabric.out_features)[::2]
    matrix = dense_matrix(fabric, factors)
    with use_kernel(kernel):
        for lead in LEADS:
            x, wide = data(*lead, fabric.in_features), bias.clone().requires_grad_()
            y = fabric_linear(x, factors, fabric, bias)
            assert_close(y, x.numpy() @ matrix.T + bias.numpy())
            grad = data(*lead, fabric.out_features, seed=1)
            (found,) = torch.autograd.grad(fabric_linear(x, factors, fabric, wide), wide, grad)
            assert_close(found, grad.reshape(-1, fabric.out_features).sum(0).numpy())


def test_gradient_of_a_bias_in_lower_precision_is_summed_in_a_higher_one() -> None:
    fabric = FABRICS["dense"]
    factors = [factor.bfloat16() for factor in random_factors(fabric)]
    bias = torch.zeros(5, dtype=torch.bfloat16, requires_grad=True)
    x = data(50, 100, 7).bfloat16()
    fabric_linear(x, factors, fabric, bias).sum().backward()
    assert bias.grad.tolist() == [4992.0] * 5  # 5000, rounded once; 256 where sums are rounded


@kernels
@pytest.mark.parametrize("rows", [3, 40])
def test_strides_do_not_matter(kernel: str, rows: int) -> None:
    fabric = FABRICS["branches"]
    factors = random_factors(fabric)
    matrix = dense_matrix(fabric, factors)
    turned = data(15, rows).t()
    spread = data(rows, 2, 30)[:, 1, ::2]
    offset = data(rows + 1, 16)[1:, 1:]
    expanded = data(1, 15).expand(rows, 15)
    weights = [f.transpose(2, 3).contiguous().transpose(2, 3) for f in factors]
    with use_kernel(kernel):
        for x in (turned, spread, offset, expanded):
            y, grad_x, *_ = gradients(x, weights, fabric, turned.new_ones(1, 1).expand(rows, 13))
            assert_close(y, x.numpy() @ matrix.T)
            assert_close(grad_x, np.ones((rows, 13)) @ matrix)


@pairs
def test_only_the_gradients_asked_for(kernel: str, name: str) -> None:
    fabric = FABRICS[name]
    factors = random_factors(fabric)
    x, grad = data(20, fabric.in_features), data(20, fabric.out_features, seed=1)
    expected = gradients(x, factors, fabric, grad)[1:]
    count = len(factors) + 1
    for asked in range(1, 2**count):
        needs = [bool(asked >> place & 1) for place in range(count)]
        with use_kernel(kernel):
            found = torch.ops.sparsify.fabric_backward(grad, x, factors, fabric.to_json(), needs)
        wanted = [e for e, need in zip(expected, needs, strict=True) if need]
        for actual, value in zip(found, wanted, strict=True):
            assert_close(actual, value.numpy())


@kernels
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 1.6e-2), (torch.float16, 1.6e-2)],
)
def test_lower_precision(kernel: str, dtype: torch.dtype, tolerance: float) -> None:
    for name in ("monarch", "branches", "clos", "graph"):
        fabric = FABRICS[name]
        if not is_served(kernel, fabric):
            continue
        scaled = zip(random_factors(fabric), fabric.stages, strict=True)
        factors = [(factor / stage.fan_in**0.5).to(dtype) for factor, stage in scaled]
        x, grad = data(64, fabric.in_features).to(dtype), data(64, fabric.out_features).to(dtype)
        with use_kernel("reference"):
            exact = gradients(x.double(), [f.double() for f in factors], fabric, grad.double())
        with use_kernel(kernel):
            found = gradients(x, factors, fabric, grad)
        for actual, wanted in zip(found, exact, strict=True):
            assert actual.dtype == dtype
            assert_close(actual, wanted.numpy(), tolerance)


@kernels
def test_two_runs_are_equal_bit_by_bit(kernel: str) -> None:
    fabric = FABRICS["wide"]
    factors = [factor.float() for factor in random_factors(fabric)]
    x, grad = data(3000, 80).float(), data(3000, 96).float()
    with use_kernel(kernel):
        first, second = (gradients(x, factors, fabric, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@kernels
def test_results_share_no_memory(kernel: str) -> None:
    """With the operands, with each other, or with what the next call writes."""
    fabric = FABRICS["one number"]
    x, factors = data(4, 1), random_factors(fabric)
    with use_kernel(kernel):
        kept = fabric_linear(x, factors, fabric)
        copy = kept.clone()
        fabric_linear(-x, factors, fabric)
        assert torch.equal(kept, copy)
        found = [kept, *gradients(x, factors, fabric, kept)[1:]]
    memory = [tensor.untyped_storage().data_ptr() for tensor in (x, *factors, *found)]
    assert len(set(memory)) == len(memory)


@pytest.mark.parametrize(
    "branch",
    [(Stage(2, 3, 3, 1), Stage(1, 2, 2, 3)), (GraphStage("random", 6, 6, 2, seed=123456),)],
    ids=["stages", "a graph not seen before"],
)
def test_inference_mode_leaves_nothing_behind(branch: Branch) -> None:
    fabric = Fabric(6, 6, (branch,))
    x, factors = data(50, 6), random_factors(fabric)
    with torch.inference_mode():
        fabric_linear(x, factors, fabric)
        before = fabric_linear(x, factors, fabric).clone()
    after = gradients(x, factors, fabric, data(50, 6))[0]
    assert torch.equal(before.clone(), after)


def test_one_weight_in_two_places_gets_both_gradients() -> None:
    fabric = Fabric(4, 4, ((Stage(1, 4, 4, 1), Stage(1, 4, 4, 1)),))
    weight = data(1, 1, 4, 4).requires_grad_()
    x = data(3, 4)
    fabric_linear(x, [weight, weight], fabric).sum().backward()
    square = weight.detach().clone().requires_grad_()
    (x @ (square[0, 0] @ square[0, 0]).T).sum().backward()
    assert torch.allclose(weight.grad, square.grad)


def test_the_automatic_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    fabric = Fabric(5, 7, ((Stage(1, 7, 5, 1),),), family="never seen before")
    with caplog.at_level(logging.DEBUG, logger="sparsify.ops.dispatch"):
        for _ in range(2):
            fabric_linear(data(2, 5), random_factors(fabric), fabric)
    *passed_over, chosen = (record.getMessage() for record in caplog.records)
    assert f"kernel {'cpu' if is_native else 'torch'!r} for" in chosen
    assert [text.split(":")[0] for text in passed_over] == (
        [] if is_native else ["kernel 'cpu' passed over"]
    )


def test_a_forced_kernel_says_that_it_takes_no_graphs() -> None:
    wrong = r"No kernel can run .*random:4->4 degree 2.*torch: only Kronecker-sparse stages"
    with use_kernel("torch"), pytest.raises(ConfigError, match=wrong):
        fabric_linear(data(3, 4), random_factors(GRAPH), GRAPH)


def test_one_weight_per_edge_in_the_order_of_the_neighbours() -> None:
    stage = GraphStage("random", 6, 4, 3, seed=2)
    weight, x = data(4, 3), data(5, 6)
    y = fabric_linear(x, [weight], Fabric(6, 4, ((stage,),)))
    assert torch.allclose(y, (x[:, torch.tensor(stage.neighbours())] * weight).sum(2))


def test_use_kernel_ends_with_its_block() -> None:
    wrong = r"no kernel 'refrence'.*Did you mean 'reference'"
    with pytest.raises(ConfigError, match=wrong), use_kernel("refrence"):
        pass
    fabric = Fabric(2, 2, ((Stage(1, 2, 2, 1),),))
    x, factors = torch.ones(1, 2).int(), [torch.ones(1, 1, 2, 2).int()]
    with use_kernel("reference"), pytest.raises(ConfigError, match=r"\(reference: only real"):
        fabric_linear(x, factors, fabric)
    with pytest.raises(ConfigError, match=r"torch: only real.*; reference: only real"):
        fabric_linear(x, factors, fabric)


@pytest.mark.parametrize(
    ("x", "factors", "message"),
    [
        (data(3, 7), None, r"needs 8 features on axis -1; got shape \(3, 7\)"),
        (torch.tensor(1.0), None, r"needs 8 features"),
        (data(3, 8), [], "needs 2 factors, one per stage; got 0"),
        (
            data(3, 8),
            [data(2, 1, 4, 4), data(1, 4, 2, 3)],
            r"Factor 1 needs the shape \(1, 4, 2, 2\)",
        ),
        (data(3, 8).float(), None, "one dtype and one device.*float32 on cpu.*float64"),
        (data(3, 8).to("meta"), None, "one dtype and one device.*meta"),
    ],
)
def test_wrong_operands(x: Tensor, factors: list[Tensor] | None, message: str) -> None:
    fabric = Fabric(8, 8, ((Stage(2, 4, 4, 1), Stage(1, 2, 2, 4)),))
    with pytest.raises(OperandError, match=message) as caught:
        fabric_linear(x, random_factors(fabric) if factors is None else factors, fabric)
    assert isinstance(caught.value, RuntimeError)  # what the dense layer raises


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (data(7), r"bias needs the shape \(5,\); got \(7,\)"),
        (data(1, 5), r"got \(1, 5\)"),
        (data(5).float(), "one dtype and one device.*the bias has torch.float32"),
    ],
)
def test_wrong_bias(bias: Tensor, message: str) -> None:
    fabric = FABRICS["dense"]
    with pytest.raises(OperandError, match=message):
        fabric_linear(data(3, 7), random_factors(fabric), fabric, bias)


def test_a_fabric_with_a_kernel_needs_positions() -> None:
    fabric = Fabric(2, 2, ((Stage(1, 2, 2, 1, kernel=(3,)),),))
    with pytest.raises(OperandError, match="Use fabric_conv"):
        fabric_linear(data(3, 2), random_factors(fabric), fabric)


def test_nothing_is_warned_about() -> None:
    fabric = FABRICS["branches"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(data(40, 15), random_factors(fabric), fabric, data(40, 13))
