"""The native kernel within torch: nothing that it keeps is ever out of date."""

from __future__ import annotations

import copy
import gc
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.nn import FabricLinear
from sparsify.ops import OperandError
from sparsify.ops.dispatch import select
from sparsify.ops.kernels import compiled
from sparsify.ops.kernels.base import Request
from sparsify.ops.kernels.native import Native
from tests.support.fabrics import dense_matrix
from tests.support.kernels import needs_library

pytestmark = needs_library

FABRIC = Fabric(
    48,
    40,
    (
        (Stage(6, 8, 8, 1), Stage(1, 5, 6, 8)),
        (Shuffle(48, seed=3), GraphStage("random", 48, 40, 6, seed=1)),
    ),
)


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer() -> FabricLinear:
    layer = FabricLinear(FABRIC)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    return layer


def assert_current(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer computes with the weights that it has now, and so do its gradients."""
    factors, bias = [f.detach() for f in layer.factors], layer.bias.detach()
    assert type(select(FABRIC.to_json(), "cpu", x.dtype, False)).__name__ == "Native"
    matrix = dense_matrix(FABRIC, [factor.double() for factor in factors])
    expected = x.detach().double().numpy() @ matrix.T + bias.double().numpy()
    for again in range(2):
        leaf = x.detach().clone().requires_grad_()
        y = layer(leaf)
        assert np.abs(y.detach().double().numpy() - expected).max() < 1e-4, again
        (grad,) = torch.autograd.grad(y.sum(), leaf)
        assert np.abs(grad.double().numpy() - matrix.sum(0)).max() < 1e-4, again
        with torch.no_grad():
            assert torch.equal(layer(leaf), y)
    return y


def _step(
    optimiser: type[torch.optim.Optimizer], **options: bool
) -> Callable[[FabricLinear], None]:
    def change(layer: FabricLinear) -> None:
        steps = optimiser(layer.parameters(), lr=0.1, **options)
        layer(data(4, 48)).square().sum().backward()
        steps.step()

    return change


def _swap_data(layer: FabricLinear) -> None:
    layer.factors[0].data = data(*layer.factors[0].shape, seed=5)


def _swap_data_of_other_strides(layer: FabricLinear) -> None:
    layer.factors[0].data = data(8, 8, 1, 6).permute(3, 2, 0, 1)


def _write(layer: FabricLinear) -> None:
    with torch.no_grad():
        layer.factors[1].copy_(data(*layer.factors[1].shape, seed=6))
        layer.bias[3:].fill_(2)


def _write_past_autograd(layer: FabricLinear) -> None:
    layer.factors[1].detach().mul_(2)
    layer.factors[0].data.add_(1)


def _set(layer: FabricLinear) -> None:
    with torch.no_grad():
        layer.factors[0].set_(data(*layer.factors[0].shape, seed=7))


def _write_by_numpy(layer: FabricLinear) -> None:
    layer.factors[2].detach().numpy()[...] = 0.5
    layer.bias.data.numpy()[0] = -3


def _share(layer: FabricLinear) -> None:
    values = np.full(layer.factors[1].shape, 0.25, np.float32)
    layer.factors[1].data = torch.from_numpy(values)
    layer(data(2, 48))
    values[...] = -0.5


def _new_parameter(layer: FabricLinear) -> None:
    layer.factors[0] = nn.Parameter(data(*layer.factors[0].shape, seed=8))
    layer.bias = nn.Parameter(data(40, seed=9))


def _assign(layer: FabricLinear) -> None:
    state = {name: data(*t.shape, seed=10) for name, t in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    state["factors.0"].mul_(3)


def _load(layer: FabricLinear) -> None:
    layer.load_state_dict({n: data(*t.shape, seed=11) for n, t in layer.state_dict().items()})


def _move(layer: FabricLinear) -> None:
    layer.double().float().share_memory()


def _tie(layer: FabricLinear) -> None:
    other = FabricLinear(FABRIC)
    layer.factors = other.factors
    with torch.no_grad():
        other.factors[0].add_(1)


def _swap_tensors(layer: FabricLinear) -> None:
    torch.utils.swap_tensors(layer.factors[0], nn.Parameter(data(*layer.factors[0].shape, seed=12)))


def _resize(layer: FabricLinear) -> None:
    """What FSDP does to the memory of parameters between their uses."""
    storage = layer.factors[0].untyped_storage()
    values, size = layer.factors[0].detach().clone(), storage.nbytes()
    storage.resize_(0)
    storage.resize_(size)
    layer.factors[0].data.copy_(values * 2)


def _unaligned(layer: FabricLinear) -> None:
    shape = layer.factors[0].shape
    memory = bytearray(1 + 4 * shape.numel())
    values = torch.frombuffer(memory, dtype=torch.float32, offset=1, count=shape.numel())
    values.copy_(data(shape.numel(), seed=13))
    assert values.data_ptr() % 4
    layer.factors[0].data = values.view(shape)


CHANGES = {
    "SGD": _step(torch.optim.SGD),
    "Adam": _step(torch.optim.Adam),
    "fused AdamW": _step(torch.optim.AdamW, fused=True),
    "foreach SGD": _step(torch.optim.SGD, foreach=True),
    ".data =": _swap_data,
    ".data = of other strides": _swap_data_of_other_strides,
    "in place": _write,
    "in place, past autograd": _write_past_autograd,
    "set_": _set,
    "numpy": _write_by_numpy,
    "memory of numpy": _share,
    "new parameters": _new_parameter,
    "load_state_dict(assign=True)": _assign,
    "load_state_dict": _load,
    "moved": _move,
    "tied": _tie,
    "swap_tensors": _swap_tensors,
    "resized": _resize,
    "unaligned": _unaligned,
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_weights_are_never_missed(name: str, layer: FabricLinear) -> None:
    x = data(5, 48)
    before = assert_current(layer, x)
    for _ in range(2):
        CHANGES[name](layer)
        after = assert_current(layer, x)
    if name != "moved":
        assert not torch.allclose(before, after)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_parametrizations(layer: FabricLinear) -> None:
    x = data(5, 48)
    assert_current(layer, x)
    parametrize.register_parametrization(layer.factors, "0", Doubled())
    parametrize.register_parametrization(layer, "bias", Doubled())
    assert_current(layer, x)
    expected = layer(x)
    with parametrize.cached():
        assert torch.equal(layer(x), expected)
        assert torch.equal(layer(x), expected)
    with torch.no_grad():
        layer.factors.parametrizations["0"].original.mul_(3)
    assert_current(layer, x)
    layer(x).sum().backward()
    assert layer.factors.parametrizations["0"].original.grad is not None
    parametrize.remove_parametrizations(layer.factors, "0")  # now it is the last of the dictionary
    parametrize.remove_parametrizations(layer, "bias")
    assert_current(layer, x)
    parametrizations.weight_norm(layer.factors, "1")
    assert_current(layer, x)


def test_functional_call(layer: FabricLinear) -> None:
    x = data(5, 48)
    kept = layer(x)
    other = {name: data(*t.shape, seed=20) for name, t in layer.named_parameters()}
    found = torch.func.functional_call(layer, other, (x,))
    twin = copy.deepcopy(layer)
    twin.load_state_dict(other)
    assert torch.equal(found, twin(x))
    assert torch.equal(layer(x), kept)


def test_inference_tensors(layer: FabricLinear) -> None:
    x = data(5, 48)
    with torch.inference_mode():
        inner = copy.deepcopy(layer)
        y = inner(x)
        inner.factors[0].mul_(2)
        doubled = inner(x)
    assert torch.equal(layer(x), y)
    with torch.no_grad():
        layer.factors[0].mul_(2)
        assert torch.equal(inner(x), doubled)
        assert torch.equal(layer(x), doubled)


def test_weights_of_another_size_are_refused(layer: FabricLinear) -> None:
    layer(data(5, 48))
    good = layer.factors[0].data
    for wrong in (good[:5], good[..., :7], good.double(), good.flatten()):
        layer.factors[0].data = wrong
        with pytest.raises(OperandError, match=r"Factor 0 needs the shape|one dtype"):
            layer(data(5, 48))
        layer.factors[0].data = good
    assert_current(layer, data(5, 48))


def test_memory_that_was_given_back_is_not_read(layer: FabricLinear) -> None:
    x = data(5, 48)
    y = layer(x)
    for operand in (layer.factors[0], layer.factors[2], layer.bias, x):
        storage = operand.untyped_storage()
        size = storage.nbytes()
        storage.resize_(0)
        for _ in range(2):
            with pytest.raises(OperandError, match="memory of an operand was given back"):
                layer(x)
        if operand is not layer.bias:
            with pytest.raises(OperandError, match="given back"):
                y.sum().backward(retain_graph=True)
        storage.resize_(size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_unaligned_inputs(dtype: torch.dtype, layer: FabricLinear) -> None:
    layer.to(dtype)
    memory = bytearray(1 + 5 * 48 * dtype.itemsize)
    x = torch.frombuffer(memory, dtype=dtype, offset=1, count=5 * 48).view(5, 48)
    x.copy_(data(5, 48))
    for _ in range(2):
        assert torch.equal(layer(x), layer(x.clone()))


def test_memory_for_results(layer: FabricLinear, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether torch has its faster way to get some or not."""
    assert compiled._empty is not compiled._any_empty, "calls cost more than they could"
    expected = layer(data(5, 48))
    monkeypatch.setattr(compiled, "_empty", compiled._any_empty)
    assert torch.equal(layer(data(5, 48)), expected)


def test_slices_of_inputs(layer: FabricLinear) -> None:
    x = data(9, 100)
    for part in (x[1:6, 3:51], x[::2, 50:98], x[:1, 1:49].expand(7, 48), x[:, ::2][:, :48]):
        for _ in range(2):
            assert torch.equal(layer(part), layer(part.clone()))
    blocks = data(2, 3, 96)[:, :, 7:55]
    assert torch.equal(layer(blocks), layer(blocks.clone()))


# --- what is kept: descriptions ---------------------------------------------------------------


class Spy:
    """The library; remembers which fabrics were destroyed."""

    def __init__(self, native: Any) -> None:
        self.native, self.destroyed = native, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def sparsify_destroy(self, handle: int) -> None:
        self.destroyed.append(handle)
        self.native.sparsify_destroy(handle)


def test_descriptions_are_shared_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Native().bind(FABRIC) is Native().bind(Fabric.from_json(FABRIC.to_json()))
    spy = Spy(compiled.library())
    monkeypatch.setattr(compiled, "library", lambda: spy)
    made = compiled.Compiled(FABRIC)
    handle = made._handle
    assert not spy.destroyed
    del made
    gc.collect()
    assert spy.destroyed == [handle]
    assert compiled.compiled.cache_info().maxsize


def test_what_is_not_served() -> None:
    for request, reason in (
        (Request(FABRIC, "cuda", torch.float32, False), "only the CPU"),
        (Request(FABRIC, "cpu", torch.int32, False), "only torch.float32, .* are supported"),
        (Request(FABRIC, "cpu", torch.float32, True), "convolution"),
    ):
        assert re.match(reason, Native().unsupported(request) or "")
