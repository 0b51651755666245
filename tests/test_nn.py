"""Fabric layers against the dense layers they stand for."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify as sp
from sparsify.fabric import Fabric
from sparsify.nn import FabricLayer, dense, replacement
from tests.support.fabrics import Matrix, dense_matrix, random_fabrics

FAMILIES = sp.topologies()
LEADING = ((), (0,), (1,), (5,), (2, 3), (3, 0), (2, 1, 3), (0, 2, 1))
CLASSES = {1: sp.nn.FabricConv1d, 2: sp.nn.FabricConv2d, 3: sp.nn.FabricConv3d}
CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
DENSE = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _fill(layer: FabricLayer, seed: int = 0) -> None:
    """Standard normal weights, so that nothing is zero or special."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))


def _input(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


def _assert_close(y: Tensor, expected: Matrix | Tensor, tolerance: float, what: object) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    assert y.shape == wanted.shape, what
    error = (y.detach().double() - wanted).abs().max().item() if y.numel() else 0.0
    scale = wanted.abs().max().item() if y.numel() else 1.0
    assert error <= tolerance * scale, f"{what}: error {error / scale:.2e} of the largest value"


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_is_its_dense_matrix(family: str) -> None:
    for number, fabric in enumerate(random_fabrics(family, 500)):
        layer = sp.nn.FabricLinear(fabric, bias=number % 2 == 0, dtype=torch.float64)
        _fill(layer, number)
        x = _input(*LEADING[number % len(LEADING)], fabric.in_features, seed=number)
        expected = x.numpy() @ dense_matrix(fabric, list(layer.factors)).T
        if layer.bias is not None:
            expected = expected + layer.bias.detach().numpy()
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            y = layer.to(dtype)(x.to(dtype))
            assert y.dtype == dtype
            assert not y.numel() or (y != 0).float().mean() > 0.9, "mostly zeros prove nothing"
            _assert_close(y, expected, tolerance, fabric)


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_is_the_dense_matrix_and_carries_the_same_gradients(family: str) -> None:
    for number, fabric in enumerate(random_fabrics(family, 60, seed=5)):
        layer = sp.nn.FabricLinear(fabric, dtype=torch.float64)
        _fill(layer, number)
        _assert_close(layer.weight, dense_matrix(fabric, list(layer.factors)), 1e-12, fabric)
        x, upstream = _input(3, fabric.in_features), _input(3, fabric.out_features, seed=1)
        direct = torch.autograd.grad(layer(x), list(layer.parameters()), upstream)
        y = functional.linear(x, layer.weight, layer.bias)
        through = torch.autograd.grad(y, list(layer.parameters()), upstream)
        for one, other in zip(direct, through, strict=True):
            _assert_close(one, other, 1e-10, fabric)


def test_any_strides_of_the_input() -> None:
    layer = sp.nn.FabricLinear(sp.fabric("monarch", 24, 16, blocks=4), dtype=torch.float64)
    x = _input(24, 5, 3).permute(2, 1, 0)
    for view in (x, x[:, ::2], x.expand(2, *x.shape), x[:1].expand(4, -1, -1)):
        _assert_close(layer(view), layer(view.contiguous()), 0.0, view.stride())


GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"stride": 2},
    {"stride": 2, "padding": 2, "dilation": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": 2},
    {"padding": "valid", "stride": 3},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 2, "padding_mode": "replicate", "stride": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": "same", "padding_mode": "circular"},
    {"groups": 2, "padding": 1},
    {"groups": 4, "stride": 2, "bias": False},
]


def _convolutions() -> Iterator[tuple[int, Any, dict[str, Any]]]:
    for rank, geometry in itertools.product((1, 2, 3), GEOMETRIES):
        for kernel in (3, 2, (1, 3, 2)[:rank]):
            yield rank, kernel, geometry


def _conv(rank: int, kernel: Any, geometry: dict[str, Any], number: int) -> FabricLayer:
    groups = geometry.get("groups", 1)
    family = FAMILIES[number % len(FAMILIES)]
    options = {
        "low_rank": {"rank": 3},
        "clos": {"ingress": 2, "middle": 3},
        "butterfly": {"radix": 2},
        "parallel_butterfly": {"branches": 2, "radix": 2},
        "hypercube": {"stages": "adjacency"},
        "torus": {"dims": (2, 2)},
        "random_regular": {"degree": 2, "seed": 1},
        "expander": {"degree": 2, "stages": 2},
        "radix_net": {"radices": (2, 2)},
    }
    sizes = (8, 4) if number % 3 else (4, 8)
    fabric = sp.fabric(family, *sizes, **options.get(family, {"blocks": 2}))
    if groups > 1 and not fabric.repeats:
        fabric = sp.fabric("monarch", *sizes, blocks=2)
    layer = CLASSES[rank](fabric.repeat(groups), kernel, dtype=torch.float64, **geometry)
    _fill(layer, number)
    return layer


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("rank", "kernel", "geometry"), list(_convolutions()), ids=str)
def test_convolution_is_the_dense_one(rank: int, kernel: Any, geometry: dict[str, Any]) -> None:
    for number in range(len(FAMILIES)):
        layer = _conv(rank, kernel, geometry, number)
        twin = DENSE[rank](
            layer.in_channels, layer.out_channels, kernel, dtype=torch.float64, **geometry
        )
        with torch.no_grad():
            twin.weight.copy_(layer.weight)
            if layer.bias is not None:
                twin.bias.copy_(layer.bias)
        x = _input(2, layer.in_channels, *(9, 8, 7)[:rank], seed=number)
        _assert_close(layer(x), twin(x), 1e-10, layer)
        _assert_close(layer(x[0]), twin(x[0]), 1e-10, "without a batch")
        assert layer(x[:0]).shape == twin(x[:0]).shape, "no samples"


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 3])
def test_convolution_weight_is_its_definition(rank: int, groups: int) -> None:
    for number in range(2 * len(FAMILIES)):
        kernel = (3, 2, 4)[:rank]
        layer = _conv(rank, kernel, {"groups": groups}, number)
        full = dense_matrix(layer.fabric, list(layer.factors))  # (*kernel, out, in)
        inputs, outputs = layer.in_channels // groups, layer.out_channels // groups
        blocks = [
            full[..., g * outputs : (g + 1) * outputs, g * inputs : (g + 1) * inputs]
            for g in range(groups)
        ]
        expected = np.moveaxis(np.concatenate(blocks, axis=-2), (-2, -1), (0, 1))
        _assert_close(layer.weight, expected, 1e-12, layer)
        x = _input(2, layer.in_channels, *(7, 6, 5)[:rank])
        parameters = list(layer.parameters())
        y = CONVOLUTIONS[rank](x, layer.weight, layer.bias, groups=groups)
        upstream = _input(*y.shape)
        through = torch.autograd.grad(y, parameters, upstream)
        for one, other in zip(
            torch.autograd.grad(layer(x), parameters, upstream), through, strict=True
        ):
            _assert_close(one, other, 1e-10, layer)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_tap_is_a_linear_layer_per_position(rank: int, stride: int) -> None:
    fabric = sp.fabric("monarch", 12, 20, blocks=4)
    layer = CLASSES[rank](fabric, 1, stride=stride, dtype=torch.float64)
    linear = sp.nn.FabricLinear(fabric, dtype=torch.float64)
    linear.load_state_dict(layer.state_dict())
    x = _input(3, 12, *(5, 6, 4)[:rank])
    sampled = x[(..., *[slice(None, None, stride)] * rank)]
    expected = linear(sampled.movedim(1, -1)).movedim(-1, 1)
    _assert_close(layer(x), expected, 1e-12, layer)
    assert layer.fabric.kernel == ()
    assert layer.weight.shape == (20, 12, *[1] * rank)


def test_graphs_take_no_groups() -> None:
    fabric = sp.fabric("random_regular", 8, 8, degree=2)
    with pytest.raises(sp.ConfigError, match="mixes the 2 groups"):
        sp.nn.FabricConv2d(fabric, 3, groups=2)


def _layers() -> dict[str, FabricLayer]:
    fabric = sp.fabric("clos", 12, 8, ingress=2, middle=3)
    graphs = sp.fabric("random_regular", 12, 8, degree=4, stages=3)
    return {
        "graphs": sp.nn.FabricLinear(graphs),
        "conv2d of graphs": sp.nn.FabricConv2d(graphs, 3, padding=1),
        "linear": sp.nn.FabricLinear(fabric),
        "linear without bias": sp.nn.FabricLinear(fabric, bias=False),
        "transposed": sp.nn.FabricTransposedLinear(fabric),
        "conv2d": sp.nn.FabricConv2d(fabric, 3, padding=1),
    }


def _example(layer: FabricLayer, dtype: torch.dtype = torch.float32) -> Tensor:
    return (
        _input(2, 12, 5, 5, dtype=dtype) if hasattr(layer, "stride") else _input(2, 12, dtype=dtype)
    )


@pytest.mark.parametrize("name", _layers())
def test_layers_travel_like_any_module(name: str) -> None:
    layer = _layers()[name].eval()
    x = _example(layer)
    y = layer(x)
    keys = ["factors.0", "factors.1", "factors.2"]
    assert sorted(layer.state_dict()) == (["bias"] if layer.bias is not None else []) + keys
    shapes = [tuple(factor.shape) for factor in layer.factors]
    assert shapes == [stage.shape for stage in layer.fabric.stages]

    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream)
    stream.seek(0)
    loaded = _layers()[name]
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.equal(other(x), y)
        assert other.fabric == layer.fabric
        ours = {parameter.data_ptr() for parameter in layer.parameters()}
        assert not ours & {parameter.data_ptr() for parameter in other.parameters()}
    assert str(layer.fabric) in repr(layer)
    assert f"bias={layer.bias is not None}" in repr(layer)


@pytest.mark.parametrize("name", _layers())
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_layers_change_their_dtype(name: str, dtype: torch.dtype) -> None:
    layer = _layers()[name]
    expected = layer(_example(layer))
    x = _example(layer, dtype)
    for other in (copy.deepcopy(layer).to(dtype), copy.deepcopy(layer).to(x)):
        y = other(x)
        assert y.dtype == other.weight.dtype == dtype
        _assert_close(y, expected, 3e-2, dtype)
        y.sum().backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in other.parameters())
    assert layer.half().weight.dtype == torch.float16


@pytest.mark.parametrize("name", _layers())
def test_layers_freeze(name: str) -> None:
    layer = _layers()[name].requires_grad_(False)
    assert not layer(_example(layer)).requires_grad
    layer.factors[1].requires_grad_(True)
    layer(_example(layer)).sum().backward()
    assert [f.grad is not None for f in layer.factors] == [False, True, False]


@pytest.mark.parametrize("name", _layers())
def test_layers_on_the_meta_device(name: str) -> None:
    layer = _layers()[name].to("meta")
    y = layer(_example(layer).to("meta"))
    assert y.is_meta
    assert y.shape == _layers()[name](_example(layer)).shape
    assert layer.weight.is_meta
    layer.reset_parameters()
    with torch.device("meta"):
        assert all(p.is_meta for p in _layers()[name].parameters())


def test_names_of_the_dense_layers() -> None:
    layers = _layers()
    assert (layers["linear"].in_features, layers["linear"].out_features) == (12, 8)
    assert (layers["transposed"].nx, layers["transposed"].nf) == (12, 8)
    assert torch.equal(
        layers["transposed"].weight, sp.nn.FabricLinear.weight.fget(layers["transposed"]).T
    )
    conv = layers["conv2d"]
    assert (conv.in_channels, conv.out_channels, conv.groups) == (12, 8, 1)
    assert (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == (
        (3, 3), (1, 1), (1, 1), (1, 1)
    )  # fmt: skip


# --- standing in for a dense layer ----------------------------------------------------------


def _conv1d_of_transformers(bias: bool) -> nn.Module:
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(8, 12)
    assert bias, "it always has one"
    return layer


OWNERS: dict[str, Any] = {
    "Linear": lambda bias: nn.Linear(12, 8, bias=bias),
    "Conv1d": lambda bias: nn.Conv1d(12, 8, 3, padding="same", bias=bias),
    "Conv2d": lambda bias: nn.Conv2d(12, 8, (3, 1), stride=2, padding=(1, 0), bias=bias),
    "Conv3d": lambda bias: nn.Conv3d(12, 8, 2, dilation=2, padding_mode="circular", bias=bias),
    "Conv1D": _conv1d_of_transformers,
}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_replacement_is_like_the_dense_layer(
    owner: str, bias: bool, dtype: torch.dtype, device: str
) -> None:
    if owner == "Conv1D" and not bias:
        return
    module = OWNERS[owner](bias).to(device=device, dtype=dtype).eval()
    module.weight.requires_grad_(False)
    layer = replacement(module, sp.fabric("low_rank", 12, 8, rank=2))
    assert all(p.dtype == dtype and p.device.type == device for p in layer.parameters())
    assert not any(factor.requires_grad for factor in layer.factors)
    assert not any(part.training for part in layer.modules())
    assert layer.weight.shape == module.weight.shape
    assert (layer.bias is not None) == bias
    if bias:
        assert layer.bias.requires_grad
        assert device == "meta" or torch.equal(layer.bias, module.bias)
    for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(layer, name, None) == getattr(module, name, None)
    shape = (2, 12, 9, 9, 9)[: max(2, module.weight.dim())]
    x = torch.zeros(shape[:1] + shape[1:], dtype=dtype, device=device)
    if device == "cpu":
        layer.reset_parameters(torch.Generator().manual_seed(0))
    assert layer(x).shape == module(x).shape


def test_replacement_keeps_a_frozen_bias_and_the_training_mode() -> None:
    module = nn.Linear(12, 8).train()
    module.bias.requires_grad_(False)
    layer = replacement(module, sp.fabric("low_rank", 12, 8, rank=2))
    assert all(factor.requires_grad for factor in layer.factors)
    assert not layer.bias.requires_grad
    assert layer.training
    assert layer.factors.training


def test_replacement_keeps_hooks() -> None:
    seen: list[str] = []
    module = nn.Linear(12, 8)
    module.register_forward_pre_hook(lambda m, a: seen.append("pre"))
    module.register_forward_pre_hook(lambda m, a, k: seen.append("pre kwargs"), with_kwargs=True)
    module.register_forward_hook(lambda m, a, y: seen.append("forward"))
    module.register_forward_hook(lambda m, a, k, y: seen.append("kwargs"), with_kwargs=True)
    module.register_forward_hook(lambda m, a, y: seen.append("always"), always_call=True)
    module.register_full_backward_pre_hook(lambda m, g: seen.append("backward pre"))
    module.register_full_backward_hook(lambda m, g, h: seen.append("backward"))
    layer = replacement(module, sp.fabric("low_rank", 12, 8, rank=2))
    layer.reset_parameters()
    layer(torch.zeros(2, 12, requires_grad=True)).sum().backward()
    assert seen == [
        "pre", "pre kwargs", "forward", "kwargs", "always", "backward pre", "backward"
    ]  # fmt: skip
    seen.clear()
    with pytest.raises(sp.SparsifyError):
        layer(torch.zeros(2, 13))
    assert "always" in seen
    handle = layer.register_forward_hook(lambda m, a, y: None)
    handle.remove()
    assert len(layer._forward_hooks) == len(module._forward_hooks)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    """Computes what its parent does."""


def test_subclasses_are_taken_only_if_they_compute_the_same() -> None:
    fabric = sp.fabric("low_rank", 12, 8, rank=2)
    assert dense(Renamed(12, 8)) == dense(nn.Linear(12, 8))
    for other in (Scaled(12, 8), nn.Bilinear(2, 2, 2), nn.ReLU(), nn.LSTM(12, 8)):
        assert dense(other) is None
        with pytest.raises(sp.ModelError, match=type(other).__name__):
            replacement(other, fabric)
    own = nn.Linear(12, 8)
    own.forward = lambda x: x  # type: ignore[method-assign]
    assert dense(own) is None, "a forward of the instance's own"


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 12), (12, 12), (24, 8)])
def test_replacement_of_other_sizes(inputs: int, outputs: int) -> None:
    with pytest.raises(sp.ModelError, match="12 -> 8"):
        replacement(nn.Linear(12, 8), sp.fabric("low_rank", inputs, outputs, rank=2))


# --- errors -----------------------------------------------------------------------------------

MIXING = sp.fabric("monarch", 16, 16, blocks=4)
BAD: dict[str, tuple[Any, str]] = {
    "no fabric": (lambda: sp.nn.FabricLinear("monarch"), "needs a Fabric, see sp.fabric"),
    "no fabric for a convolution": (lambda: sp.nn.FabricConv2d(None, 3), "needs a Fabric"),
    "spatial fabric in a linear": (
        lambda: sp.nn.FabricLinear(MIXING.with_kernel((3, 3))),
        "without a kernel; got one with (3, 3)",
    ),
    "another kernel": (
        lambda: sp.nn.FabricConv2d(MIXING.with_kernel((3, 3)), 5),
        "has the kernel (3, 3), not (5, 5)",
    ),
    "kernel of another rank": (lambda: sp.nn.FabricConv2d(MIXING, (3, 3, 3)), "or 2 of them"),
    "kernel of zero": (lambda: sp.nn.FabricConv2d(MIXING, 0), "kernel_size"),
    "float kernel": (lambda: sp.nn.FabricConv2d(MIXING, 3.0), "kernel_size"),
    "stride of zero": (lambda: sp.nn.FabricConv1d(MIXING, 3, stride=0), "stride must"),
    "float stride": (lambda: sp.nn.FabricConv1d(MIXING, 3, stride=(1.5,)), "stride must"),
    "dilation of zero": (lambda: sp.nn.FabricConv1d(MIXING, 3, dilation=0), "dilation must"),
    "negative padding": (lambda: sp.nn.FabricConv1d(MIXING, 3, padding=-1), "padding must"),
    "same with a stride": (
        lambda: sp.nn.FabricConv1d(MIXING, 3, stride=2, padding="same"),
        "needs a stride of 1",
    ),
    "unknown padding": (lambda: sp.nn.FabricConv1d(MIXING, 3, padding="full"), "got 'full'"),
    "unknown padding mode": (
        lambda: sp.nn.FabricConv1d(MIXING, 3, padding_mode="mirror"),
        "got 'mirror'",
    ),
    "groups that do not divide": (lambda: sp.nn.FabricConv1d(MIXING, 3, groups=3), "groups=3"),
    "no groups": (lambda: sp.nn.FabricConv1d(MIXING, 3, groups=0), "groups=0"),
    "groups that the fabric mixes": (
        lambda: sp.nn.FabricConv1d(MIXING, 3, groups=2),
        "mixes",
    ),
    "width of the input": (
        lambda: sp.nn.FabricLinear(MIXING)(torch.zeros(2, 15)),
        "needs 16 features on axis -1; got shape (2, 15)",
    ),
    "a scalar": (lambda: sp.nn.FabricLinear(MIXING)(torch.tensor(1.0)), "got shape ()"),
    "channels of the input": (
        lambda: sp.nn.FabricConv2d(MIXING, 3)(torch.zeros(1, 15, 8, 8)),
        "needs 16 features",
    ),
    "axes of the input": (lambda: sp.nn.FabricConv2d(MIXING, 3)(torch.zeros(16)), "axes"),
    "dtype of the input": (
        lambda: sp.nn.FabricLinear(MIXING)(torch.zeros(2, 16, dtype=torch.float64)),
        "one dtype",
    ),
    "whole numbers": (
        lambda: sp.nn.FabricLinear(MIXING)(torch.zeros(2, 16, dtype=torch.int64)),
        "one dtype",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_say_what_is_wrong(name: str) -> None:
    make, fragment = BAD[name]
    with pytest.raises(sp.SparsifyError) as caught:
        make()
    assert fragment in str(caught.value)


def test_reset_draws_from_the_given_generator(untouched: Any) -> None:
    fabric = Fabric.from_json(sp.fabric("monarch", 64, 64, blocks=8).to_json())
    one, other = sp.nn.FabricLinear(fabric), sp.nn.FabricLinear(fabric)
    assert not torch.equal(one.weight, other.weight)
    with untouched():
        for layer in (one, other):
            layer.reset_parameters(torch.Generator().manual_seed(7))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_an_encoder_layer_calls_its_fabrics(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    sparse = sp.sparsify(encoder, (x,), budget=0.5)
    assert isinstance(sparse.linear1, sp.nn.FabricLinear)
    expected = sparse(x.requires_grad_())  # the fused function takes no tensors that need gradients

    def materialise(layer: FabricLayer) -> Tensor:
        raise AssertionError("The dense weight was made.")

    monkeypatch.setattr(sp.nn.FabricLinear, "weight", property(materialise))
    with torch.no_grad():
        assert torch.allclose(sparse(x), expected, atol=1e-5)
