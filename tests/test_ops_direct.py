"""The short way past the dispatcher: who gets it, who never does, and that nothing differs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sparsify.fabric import Fabric, Stage
from sparsify.nn import FabricLinear
from sparsify.ops import OperandError, direct, fabric_linear, use_kernel

FABRIC = Fabric(12, 20, ((Stage(3, 4, 4, 1), Stage(1, 5, 3, 4)),))
TEXT = FABRIC.to_json()


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """No call is known when a test begins."""
    direct._calls.cache_clear()
    yield
    direct._calls.cache_clear()


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each call went."""
    seen: list[str] = []
    linear = direct.linear

    def spy(*operands: Any) -> Tensor | None:
        y = linear(*operands)
        seen.append("operator" if y is None else "direct")
        return y

    monkeypatch.setattr(direct, "linear", spy)
    return seen


@pytest.fixture
def layer() -> FabricLinear:
    layer = FabricLinear(FABRIC)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    return layer


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def by_operator(layer: FabricLinear, x: Tensor) -> Tensor:
    y: Tensor = torch.ops.sparsify.fabric(x, list(layer.factors), TEXT, layer.bias)
    return y


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("bias", [True, False])
def test_plain_calls_go_the_short_way(mode: Any, bias: bool, ways: list[str]) -> None:
    layer = FabricLinear(FABRIC, bias)
    with mode():
        for lead in ((3,), (1,), (), (2, 3), (0,), (2, 0, 3), (5,)):
            x = data(*lead, 12)
            for _ in range(2):
                y = layer(x)
                assert torch.equal(y, by_operator(layer, x))
                assert y.requires_grad == by_operator(layer, x).requires_grad
                assert y.is_inference() == torch.is_inference_mode_enabled()
        assert torch.equal(layer(data(12, 4).t()), by_operator(layer, data(12, 4).t()))
    assert set(ways) == {"direct"}


@pytest.mark.parametrize("frozen", [(), ("bias",), ("factors.1",), ("factors.0", "factors.1")])
@pytest.mark.parametrize("needs_x", [True, False])
def test_gradients_are_those_of_the_operator(
    frozen: tuple[str, ...], needs_x: bool, layer: FabricLinear, ways: list[str]
) -> None:
    parameters = dict(layer.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    x = data(2, 3, 12).requires_grad_(needs_x)
    wanted = [tensor for tensor in (x, *parameters.values()) if tensor.requires_grad]
    for grad in (data(2, 3, 20), data(1).expand(2, 3, 20)):
        found = torch.autograd.grad(layer(x), wanted, grad)
        expected = torch.autograd.grad(by_operator(layer, x), wanted, grad)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert set(ways) == {"direct"}


def test_grad_mode_is_part_of_a_call(layer: FabricLinear) -> None:
    x = data(3, 12)
    for _ in range(2):
        with torch.no_grad():
            assert not layer(x).requires_grad
        assert layer(x).requires_grad
    layer.requires_grad_(False)
    assert not layer(x).requires_grad
    assert layer(x.requires_grad_()).requires_grad


def test_gradients_of_gradients(layer: FabricLinear) -> None:
    layer.double()
    operands = [data(3, 12).double().requires_grad_(), *layer.parameters()]

    def call(x: Tensor, bias: Tensor, *factors: Tensor) -> Tensor:
        return fabric_linear(x, factors, TEXT, bias)

    call(*operands).sum().backward()  # the short way back is known
    found = torch.autograd.grad(call(*operands).sum(), operands[0], create_graph=True)
    assert found[0].requires_grad
    assert torch.autograd.gradcheck(call, operands)
    assert torch.autograd.gradgradcheck(call, operands)


class Seen(TorchDispatchMode):
    """Remembers what was dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Remembers which functions were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Plain(Tensor):
    """A subclass that does nothing."""


def _dispatch_mode(layer: FabricLinear, x: Tensor) -> None:
    with Seen() as mode:
        layer(x)
    assert mode.names[0] == "sparsify.fabric.default"


def _dispatch_mode_in_the_backward(layer: FabricLinear, x: Tensor) -> None:
    layer(x).sum().backward()
    y = layer(x).sum()
    with Seen() as mode:
        y.backward()
    assert "sparsify.fabric_backward.default" in mode.names


def _function_mode(layer: FabricLinear, x: Tensor) -> None:
    with Functions() as mode:
        layer(x)
    assert "sparsify.fabric" in mode.names


def _default_device(layer: FabricLinear, x: Tensor) -> None:
    with torch.device("meta"):
        assert layer(x).device.type == "cpu"


def _flops(layer: FabricLinear, x: Tensor) -> None:
    with FlopCounterMode(display=False) as counter:
        layer(x.requires_grad_()).sum().backward()
    x.requires_grad_(False)
    assert counter.get_total_flops() == 3 * FABRIC.flops(3)


def _fake(layer: FabricLinear, x: Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(layer(x)) is not Tensor


def _vmap(layer: FabricLinear, x: Tensor) -> None:
    expected = layer(x)
    assert torch.allclose(torch.vmap(layer)(x), expected, atol=1e-5)
    seen: list[Tensor] = []
    torch.vmap(lambda z: seen.append(layer(x)) or z)(x)  # operands that are not batched
    assert torch.allclose(seen[0], expected, atol=1e-5)


def _gradient_transform(layer: FabricLinear, x: Tensor) -> None:
    found = torch.func.grad(lambda z: layer(z).square().sum())(x)
    leaf = x.clone().requires_grad_()
    layer(leaf).square().sum().backward()
    assert torch.allclose(found, leaf.grad, atol=1e-5)


def _forward_transform(layer: FabricLinear, x: Tensor) -> None:
    _, found = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    assert torch.allclose(found, layer(torch.ones_like(x)) - layer.bias, atol=1e-5)


def _dual_numbers(layer: FabricLinear, x: Tensor) -> None:
    with torch.no_grad(), forward_ad.dual_level():
        layer(forward_ad.make_dual(x, x))


def _functional_transform(layer: FabricLinear, x: Tensor) -> None:
    found = torch.func.functionalize(layer)(x)
    assert torch.allclose(found, layer(x), atol=1e-5)


def _traced(layer: FabricLinear, x: Tensor) -> None:
    targets = [str(node.target) for node in make_fx(layer)(x).graph.nodes]
    assert "sparsify.fabric.default" in targets


def _exported(strict: bool) -> Callable[[FabricLinear, Tensor], None]:
    def export(layer: FabricLinear, x: Tensor) -> None:
        program = torch.export.export(layer, (x,), strict=strict)
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert targets == ["sparsify.fabric.default"]

    return export


def _compiled(layer: FabricLinear, x: Tensor) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(module)
        return module.forward

    compiled = torch.compile(layer, backend=backend, fullgraph=True, dynamic=True)
    for rows in (17, 3):
        x = data(rows, 12)
        assert torch.equal(compiled(x), layer(x))
    (graph,) = graphs
    assert "sparsify.fabric" in [str(node.target) for node in graph.graph.nodes]
    torch.compiler.reset()


def _scripted_trace(layer: FabricLinear, x: Tensor) -> None:
    traced = torch.jit.trace(layer.requires_grad_(False), (x,))
    assert "sparsify::fabric" in str(traced.inlined_graph)
    assert torch.equal(traced(2 * x), layer(2 * x))


def _autocast(layer: FabricLinear, x: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.nn.functional.relu(layer(x)).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


def _profiler(layer: FabricLinear, x: Tensor) -> None:
    with torch.profiler.profile() as profile:
        layer(x)
    assert "sparsify::fabric" in [event.key for event in profile.key_averages()]


def _subclass(layer: FabricLinear, x: Tensor) -> None:
    assert type(layer(x.as_subclass(Plain))) is Plain


def _subclass_of_a_parameter(layer: FabricLinear, x: Tensor) -> None:
    factors = [layer.factors[0].detach().as_subclass(Plain), layer.factors[1]]
    assert type(fabric_linear(x, factors, TEXT, layer.bias)) is Plain


def _lazily_negated(layer: FabricLinear, x: Tensor) -> None:
    assert torch.equal(layer(torch._neg_view(x)), layer(-x))


def _lazily_negated_parameter(layer: FabricLinear, x: Tensor) -> None:
    weights = [factor.detach() for factor in layer.factors]
    lazy = [torch._neg_view(weights[0]), weights[1]]
    assert torch.equal(fabric_linear(x, lazy, TEXT), fabric_linear(-x, weights, TEXT))


def _meta(layer: FabricLinear, x: Tensor) -> None:
    assert layer.to("meta")(x.to("meta")).is_meta


def test_a_forced_kernel_goes_the_short_way_too(layer: FabricLinear, ways: list[str]) -> None:
    x = data(3, 12)
    for _ in range(2):
        free = layer(x)
        with use_kernel("reference"):
            assert torch.allclose(layer(x), free, atol=1e-5)
    assert "operator" not in ways


WATCHERS = {
    "dispatch mode": _dispatch_mode,
    "function mode": _function_mode,
    "default device": _default_device,
    "FLOP counter": _flops,
    "fake tensors": _fake,
    "vmap": _vmap,
    "grad": _gradient_transform,
    "jvp": _forward_transform,
    "functionalize": _functional_transform,
    "make_fx": _traced,
    "jit.trace": _scripted_trace,
    "profiler": _profiler,
    "subclass": _subclass,
    "subclass of a parameter": _subclass_of_a_parameter,
    "lazily negated": _lazily_negated,
    "lazily negated parameter": _lazily_negated_parameter,
    "autocast": _autocast,
    "meta": _meta,
    "export": _exported(strict=False),
    "dispatch mode in the backward": _dispatch_mode_in_the_backward,
    "dual numbers": _dual_numbers,
}
"""What each sees of a call, written down where only the operator shows it."""


quietly = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own


@quietly
@pytest.mark.parametrize("known", [False, True], ids=["first call", "known call"])
@pytest.mark.parametrize("name", WATCHERS)
def test_watchers_see_the_operator(
    name: str, known: bool, layer: FabricLinear, ways: list[str]
) -> None:
    x = data(3, 12)
    if known:
        for mode in (torch.no_grad, torch.enable_grad):
            with mode():
                layer(x)
                fabric_linear(x, list(layer.factors), TEXT)
                fabric_linear(x, [factor.detach() for factor in layer.factors], TEXT)
        assert set(ways) == {"direct"}
        ways.clear()
    WATCHERS[name](layer, x)
    assert "operator" in ways or "backward" in name
    ways.clear()
    with contextlib.suppress(OperandError):  # the layer on meta
        layer(x)
        assert ways == ["direct"], "and nothing of it stays"


@quietly
@pytest.mark.parametrize("known", [False, True], ids=["first call", "known call"])
@pytest.mark.parametrize("see", [_compiled, _exported(strict=True)])
def test_the_compiler_sees_the_operator(see: Any, known: bool, layer: FabricLinear) -> None:
    if known:
        layer(data(3, 12))
    see(layer, data(3, 12))


@pytest.mark.parametrize("known", [False, True])
def test_wrong_operands_are_told_as_ever(known: bool, layer: FabricLinear) -> None:
    if known:
        layer(data(3, 12))
    factors, bias = list(layer.factors), layer.bias
    wrong: list[tuple[Any, str]] = [
        ((data(3, 11), factors, TEXT, bias), "needs 12 features"),
        ((torch.tensor(1.0), factors, TEXT, bias), "needs 12 features"),
        ((data(3, 12), factors[:1], TEXT, bias), "needs 2 factors"),
        ((data(3, 12), [*factors, bias], TEXT, None), "needs 2 factors"),
        ((data(3, 12), factors[::-1], TEXT, bias), "Factor 0 needs the shape"),
        ((data(3, 12).double(), factors, TEXT, bias), "one dtype"),
        ((data(3, 12), factors, TEXT, bias.double()), "one dtype"),
        ((data(3, 12), factors, TEXT, data(12)), "bias needs the shape"),
    ]
    for operands, message in wrong:
        with pytest.raises(OperandError, match=message):
            fabric_linear(*operands)


def test_calls_that_are_known_are_few(layer: FabricLinear) -> None:
    for axes in range(1, 20):
        layer(data(*[1] * axes, 12))
    known = direct._calls(TEXT, None, 2, False, True, None)
    assert len(known) == direct.KINDS_OF_CALLS


def test_without_the_guards_of_torch_all_calls_go_to_the_operator(
    layer: FabricLinear, ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = layer(data(3, 12))
    monkeypatch.setattr(direct, "is_available", False)
    assert torch.equal(layer(data(3, 12)), expected)
    assert ways == ["direct", "operator"]


def test_guards_are_there_in_this_version_of_torch() -> None:
    assert direct.is_available, "calls cost 10 us more than they could"


def test_hooks_and_checkpoints(layer: FabricLinear, ways: list[str]) -> None:
    seen: list[Tensor] = []
    x = data(3, 12).requires_grad_()
    layer.register_forward_hook(lambda *_: seen.append(_[2]))
    packed: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        y = layer(x)
    assert seen == [y]
    assert len(packed) == 3
    expected = torch.autograd.grad(y.sum(), x)[0]
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], expected)
    assert set(ways) == {"direct"}


def test_factors_of_any_strides(layer: FabricLinear) -> None:
    """Also where the layer was called with factors of the usual strides before, and after that."""
    x, (first, second) = data(3, 12), (factor.detach() for factor in layer.factors)
    turned = first.transpose(2, 3).contiguous().transpose(2, 3)
    expected = fabric_linear(x, [first, second], TEXT)
    for _ in range(2):
        assert torch.equal(fabric_linear(x, [turned, second], TEXT), expected)
        assert torch.equal(fabric_linear(x, [first, second], TEXT), expected)
    y = fabric_linear(x, [turned.requires_grad_(), second], TEXT)
    (grad,) = torch.autograd.grad(y.sum(), turned)
    first.requires_grad_()
    (wanted,) = torch.autograd.grad(fabric_linear(x, [first, second], TEXT).sum(), first)
    assert torch.equal(grad, wanted)


def test_one_weight_in_two_places(ways: list[str]) -> None:
    fabric = Fabric(4, 4, ((Stage(1, 4, 4, 1), Stage(1, 4, 4, 1)),))
    weight = nn.Parameter(data(1, 1, 4, 4))
    x = data(3, 4)
    for _ in range(2):
        y = fabric_linear(x, [weight, weight], fabric)
        assert torch.allclose(y, x @ (weight[0, 0] @ weight[0, 0]).T, atol=1e-5)
