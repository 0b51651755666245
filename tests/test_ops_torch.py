"""The operators inside torch: derivatives, transforms, autocast, counting, compiling, exporting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.nn import FabricLinear
from sparsify.ops import fabric_conv, fabric_linear, use_kernel
from sparsify.ops.graph import places
from tests.support.fabrics import is_served, random_factors
from tests.support.kernels import kernels_for

BRANCHES = (
    (Stage(2, 3, 3, 1), Stage(1, 2, 2, 3)),
    (Shuffle(6, stride=2), Stage(1, 5, 6, 1)),
)
PLAIN = Fabric(5, 5, BRANCHES)
SPATIAL = PLAIN.with_kernel((2, 3))
GRAPHS = Fabric(
    5,
    5,
    (
        (GraphStage("random", 6, 9, 2, seed=3), Stage(1, 5, 9, 1)),
        (Shuffle(5, seed=1), GraphStage("circulant", 5, 5, 3, seed=4)),
    ),
)
SPATIAL_GRAPHS = GRAPHS.with_kernel((2, 3))


class Case(NamedTuple):
    """An operator with operands: x first, then the factors, then the bias if there is one."""

    call: Callable[..., Tensor]
    operands: list[Tensor]
    fabric: Fabric
    name: str
    rest: tuple[Any, ...]


def _linear(dtype: torch.dtype = torch.float64, fabric: Fabric = PLAIN, bias: int = 0) -> Case:
    x = torch.linspace(-1, 1, 30, dtype=dtype).view(2, 3, 5)
    factors = random_factors(fabric, dtype=dtype)
    biases = [torch.linspace(1, 3, 5, dtype=dtype)] * bias

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        count = len(fabric.stages)
        return fabric_linear(x, weights[:count], fabric, *weights[count:])

    return Case(call, _leaves(x, *factors, *biases), fabric, "fabric", (fabric.to_json(),))


def _conv(
    dtype: torch.dtype = torch.float64,
    fabric: Fabric = SPATIAL,
    transposed: tuple[Any, ...] = (False, (0, 0)),
) -> Case:
    x = torch.linspace(-1, 1, 200, dtype=dtype).view(2, 5, 4, 5)
    factors = random_factors(fabric, dtype=dtype)
    window = ((2, 1), (1, 1), (1, 2))
    call = lambda x, *factors: fabric_conv(x, factors, fabric, *window, *transposed)  # noqa: E731
    rest = (fabric.to_json(), *map(list, window), transposed[0], list(transposed[1]))
    return Case(call, _leaves(x, *factors), fabric, "fabric_conv", rest)


def _leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in tensors]


CASES = {
    "linear": _linear,
    "linear with bias": partial(_linear, bias=1),
    "conv": _conv,
    "linear graphs": partial(_linear, fabric=GRAPHS),
    "conv graphs": partial(_conv, fabric=SPATIAL_GRAPHS),
    "transposed conv": partial(_conv, transposed=(True, (1, 1))),
    "transposed conv without taps": partial(_conv, fabric=PLAIN, transposed=(True, (0, 1))),
}
both = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


@pytest.fixture(params=kernels_for())
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_kernel(request.param):
        yield request.param


@both
def test_derivatives(make: Callable[[], Case], kernel: str) -> None:
    case = make()
    if not is_served(kernel, case.fabric, case.name == "fabric_conv"):
        pytest.skip(f"{kernel} does not take {case.fabric}")
    assert torch.autograd.gradcheck(case.call, case.operands, fast_mode=case.name != "fabric")


@both
def test_second_derivatives(make: Callable[[], Case]) -> None:
    case = make()
    assert torch.autograd.gradgradcheck(case.call, case.operands, fast_mode=True)


def test_higher_derivatives() -> None:
    case = _linear()
    x, *factors = case.operands
    value = case.call(x, *factors).pow(4).sum()
    truth = (x @ _dense(factors).T).pow(4).sum()
    for _ in range(3):
        value, truth = (
            torch.autograd.grad(y, factors[0], create_graph=True)[0].square().sum()
            for y in (value, truth)
        )
        assert value.item() != 0
        assert torch.allclose(value, truth, rtol=1e-9)


def _dense(factors: list[Tensor]) -> Tensor:
    """The matrix of PLAIN, differentiable."""
    eye = torch.eye(6, dtype=torch.float64)
    wrapped = eye[:5].T.clone()
    wrapped[5, 0] = 1
    first = torch.block_diag(*factors[0][:, 0])
    second = torch.zeros(6, 6, dtype=torch.float64)
    for inner in range(3):
        place = torch.zeros(2, 6, dtype=torch.float64)
        place[0, inner] = place[1, 3 + inner] = 1
        second = second + place.T @ factors[1][0, inner] @ place
    shuffled = eye[[0, 2, 4, 1, 3, 5]]
    return wrapped.T @ second @ first @ wrapped + factors[2][0, 0] @ shuffled @ wrapped


@both
@pytest.mark.parametrize("backward", [False, True])
def test_opcheck(make: Callable[[], Case], backward: bool) -> None:
    """Schema, autograd registration, shapes without data, and tracing, static and dynamic."""
    case = make()
    count = 1 + len(case.fabric.stages)
    x, *factors = make().operands[:count]
    arguments: tuple[Any, ...] = (x, factors, *case.rest)
    name = case.name
    if not backward:
        arguments += tuple(make().operands[count:])
    if backward:
        grad = torch.ones_like(case.call(*case.operands)).requires_grad_()
        arguments = (grad, *arguments, [True, False, True, True])
        name += "_backward"
    operator = getattr(torch.ops.sparsify, name).default
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    traced = ["test_aot_dispatch_static", "test_aot_dispatch_dynamic"]
    opcheck(operator, arguments, test_utils=[*tests, *traced])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_trace_leaves_no_tensor_behind(device: str) -> None:
    """Neighbours are kept by stage and device; what a trace makes of them is no tensor later."""
    stage = GraphStage("random", 6, 6, 2, seed=987654321)
    with FakeTensorMode():
        assert isinstance(places(stage, torch.device(device)), FakeTensor)
    with torch.inference_mode():
        places(stage, torch.device(device))
    found = places(stage, torch.device(device))
    assert type(found) is Tensor
    assert found.device.type == device
    assert not found.is_inference()


@both
@pytest.mark.parametrize("batched", [(0,), (1,), (0, 2), (0, 1, 2, 3)])
def test_vmap_is_a_loop(make: Callable[[], Case], batched: tuple[int, ...]) -> None:
    case = make()
    operands = [tensor.detach() for tensor in case.operands]
    for place in batched:
        operands[place] = torch.stack([operands[place] * scale for scale in (1.0, -2.0, 0.5)])
    dims = tuple(0 if place in batched else None for place in range(len(operands)))
    single = [
        [x[i] if place in batched else x for place, x in enumerate(operands)] for i in range(3)
    ]
    expected = torch.stack([case.call(*each) for each in single])
    assert torch.allclose(torch.vmap(case.call, in_dims=dims)(*operands), expected)

    def loss(*operands: Tensor) -> Tensor:
        return case.call(*operands).sin().sum()

    every = tuple(range(len(operands)))
    found = torch.vmap(torch.func.grad(loss, every), in_dims=dims)(*operands)
    for place, values in enumerate(found):
        for each, value in zip(single, values, strict=True):
            leaves = [tensor.clone().requires_grad_() for tensor in each]
            (wanted,) = torch.autograd.grad(loss(*leaves), leaves[place])
            assert torch.allclose(value, wanted)


@both
def test_forward_mode(make: Callable[[], Case]) -> None:
    case = make()
    operands = tuple(tensor.detach() for tensor in case.operands)
    tangents = tuple(torch.ones_like(tensor) for tensor in operands)
    _, found = torch.func.jvp(case.call, operands, tangents)
    near = [
        case.call(*(x + h * t for x, t in zip(operands, tangents, strict=True)))
        for h in (1e-5, -1e-5)
    ]
    assert torch.allclose(found, (near[0] - near[1]) / 2e-5, atol=1e-6)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_follows_the_current_dtype(make: Any, dtype: torch.dtype) -> None:
    case = make(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        y = case.call(*case.operands)
    assert y.dtype == dtype
    y.sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in case.operands)
    exact = case.call(*case.operands)
    assert (y - exact).abs().max() <= 1.6e-2 * exact.abs().max()


@both
def test_autocast_leaves_double_alone(make: Callable[[], Case]) -> None:
    case = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert case.call(*case.operands).dtype == torch.float64


def _flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_flops_of_linear() -> None:
    case = _linear()
    x, *factors = case.operands
    forward = PLAIN.flops(6)
    assert _flops(lambda: case.call(x, *factors)) == forward
    assert _flops(lambda: case.call(x, *factors).sum().backward()) == 3 * forward
    frozen = [factors[0].detach(), factors[1].detach(), factors[2]]
    only_last = 2 * 6 * PLAIN.stages[2].parameters
    assert _flops(lambda: case.call(x.detach(), *frozen).sum().backward()) == forward + only_last
    biased = _linear(bias=1)
    assert _flops(lambda: biased.call(*biased.operands).sum().backward()) == 3 * forward


def test_flops_of_graphs_count_their_edges() -> None:
    case = CASES["linear graphs"]()
    assert _flops(lambda: case.call(*case.operands)) == 2 * 6 * (9 * 2 + 9 * 5 + 5 * 3)
    case = CASES["conv graphs"]()  # at 2 * 9 positions that come out; 2 * 20 before the taps
    weights = 9 * 2 * 6 + 9 * 5 + 5 * 3 * 6
    positions = math.prod(case.call(*case.operands).shape[2:]) * 2
    assert _flops(lambda: case.call(*case.operands)) == 2 * positions * weights


def test_flops_of_convolution() -> None:
    """Stages before the taps count positions of the input, the others those of the output."""
    fabric = Fabric(
        6, 6, ((Stage(1, 6, 6, 1), Stage(2, 3, 3, 1, kernel=(3, 3)), Stage(1, 2, 2, 3)),)
    )
    x = torch.ones(2, 6, 8, 8)
    factors = [torch.ones(stage.shape) for stage in fabric.stages]
    total = _flops(lambda: fabric_conv(x, factors, fabric, stride=2, padding=1))
    assert total == 2 * 2 * (36 * 64 + 18 * 9 * 16 + 12 * 16)
    back = {"stride": 2, "padding": 1, "transposed": True, "output_padding": 1}
    total = _flops(lambda: fabric_conv(x, factors, fabric, **back))  # 16 x 16 come out
    assert total == 2 * 2 * (36 * 64 + 18 * 9 * 64 + 12 * 256)


@both
def test_compile_in_one_graph_with_any_batch(make: Callable[[], Case]) -> None:
    case = make()
    _, *factors = case.operands
    graphs = []

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(module)
        return module.forward

    def model(x: Tensor) -> Tensor:
        return case.call(x * 2, *factors).sin()

    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for batch in (17, 3, 7):  # 17: a first size that equals no other takes no guard on it
        x = case.operands[0].detach()[:1].expand(batch, *case.operands[0].shape[1:])
        assert torch.equal(compiled(x), model(x))
    assert len(graphs) == 1
    torch.compiler.reset()


@both
def test_compiled_training_keeps_both_operators(make: Callable[[], Case]) -> None:
    case = make()
    seen: list[str] = []

    def compiler(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        seen.extend(str(n.target) for n in module.graph.nodes if n.op == "call_function")
        return torch._functorch.compilers.nop(module, _)

    from torch._dynamo.backends.common import aot_autograd

    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    compiled = torch.compile(case.call, backend=backend, fullgraph=True)
    found = torch.autograd.grad(compiled(*case.operands).sin().sum(), case.operands)
    wanted = torch.autograd.grad(case.call(*case.operands).sin().sum(), case.operands)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))
    ours = [name for name in seen if name.startswith("sparsify.")]
    assert ours == [f"sparsify.{case.name}.default", f"sparsify.{case.name}_backward.default"]
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own
@both
def test_export_keeps_one_node(make: Callable[[], Case]) -> None:
    case = make()

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors = torch.nn.ParameterList(case.operands[1:])

        def forward(self, x: Tensor) -> Tensor:
            return case.call(x, *self.factors)

    model = Model()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (case.operands[0].detach(),), dynamic_shapes=shapes)
    names = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert names == [f"sparsify.{case.name}.default"]
    x = case.operands[0].detach()[:1].expand(5, *case.operands[0].shape[1:]).contiguous()
    assert torch.equal(program.module()(x), model(x))
    assert program.run_decompositions().graph.find_nodes(
        op="call_function", target=getattr(torch.ops.sparsify, case.name).default
    )


def _frozen() -> FabricLinear:
    fabric = Fabric(12, 8, ((Stage(3, 4, 4, 1), Stage(1, 2, 3, 4)),))
    return FabricLinear(fabric, dtype=torch.float64).requires_grad_(False)


@pytest.mark.parametrize("grad", [False, True])
def test_forward_mode_differentiates_frozen_and_trained_layers(grad: bool) -> None:
    layer = _frozen().requires_grad_(grad)
    x, tangent = torch.randn(3, 12, dtype=torch.float64), torch.randn(3, 12, dtype=torch.float64)
    layer(x)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent))).tangent
    assert found is not None
    assert torch.allclose(found, tangent @ layer.weight.T)
