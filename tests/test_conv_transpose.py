"""Transposed convolutions made of fabrics: layers, owners, init, sites, export."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import sparsify as sp
from sparsify.fabric import Fabric, GraphStage, Stage
from sparsify.nn import FabricLayer, dense, replacement
from sparsify.plan import Site

CLASSES: dict[int, Any] = {
    1: sp.nn.FabricConvTranspose1d,
    2: sp.nn.FabricConvTranspose2d,
    3: sp.nn.FabricConvTranspose3d,
}
DENSE: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": 3, "dilation": 2, "output_padding": 2},
    {"dilation": 3, "padding": 2, "output_padding": 2},
    {"groups": 2, "stride": 2, "padding": 1},
    {"groups": 4, "bias": False},
]
FABRICS = (
    Fabric(4, 4, ((Stage(1, 4, 4, 1),),)),
    sp.fabric("monarch", 4, 8, blocks=2),
    sp.fabric("low_rank", 8, 4, rank=3),
    sp.fabric("clos", 8, 8, ingress=2, middle=3),
)


def _fill(layer: nn.Module, seed: int = 0) -> None:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))


def _input(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _cases() -> Iterator[tuple[int, Any, dict[str, Any]]]:
    for rank, geometry in itertools.product((1, 2, 3), GEOMETRIES):
        for kernel in (3, 2, 1, (1, 3, 4)[:rank]):
            yield rank, kernel, geometry


@pytest.mark.parametrize(("rank", "kernel", "geometry"), list(_cases()), ids=str)
def test_it_is_the_dense_one(rank: int, kernel: Any, geometry: dict[str, Any]) -> None:
    for number, fabric in enumerate(FABRICS):
        repeated = fabric.repeat(geometry.get("groups", 1))
        layer = CLASSES[rank](repeated, kernel, dtype=torch.float64, **geometry)
        _fill(layer, number)
        sizes = layer.in_channels, layer.out_channels
        twin = DENSE[rank](*sizes, kernel, dtype=torch.float64, **geometry)
        assert layer.weight.shape == twin.weight.shape
        with torch.no_grad():
            twin.weight.copy_(layer.weight)
            if layer.bias is not None:
                twin.bias.copy_(layer.bias)
        x = _input(2, layer.in_channels, *(5, 4, 3)[:rank], seed=number)
        for own in (x, x[0]):
            y, expected = layer(own), twin(own)
            assert y.shape == expected.shape
            assert torch.allclose(y, expected, rtol=1e-10, atol=1e-10), layer
        assert layer(x[:0]).shape == twin(x[:0]).shape
        upstream = torch.rand_like(expected)
        wanted = torch.autograd.grad(twin(x[0]), twin.weight, upstream)[0]
        parameters = list(layer.factors)
        direct = torch.autograd.grad(layer(x[0]), parameters, upstream)
        through = torch.autograd.grad(layer.weight, parameters, wanted)
        for one, other in zip(direct, through, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_a_graph_with_taps() -> None:
    fabric = Fabric(8, 6, ((GraphStage("random", 8, 6, 4, seed=1),),))
    layer = sp.nn.FabricConvTranspose2d(fabric, 3, stride=2, dtype=torch.float64)
    twin = nn.ConvTranspose2d(8, 6, 3, stride=2, dtype=torch.float64)
    twin.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = _input(2, 8, 4, 5)
    assert torch.allclose(layer(x), twin(x), rtol=1e-10)
    assert int((layer.weight == 0).sum()) == 4 * 6 * 9


@pytest.mark.parametrize("size", [(9, 7), (10, 8), (3, 6, 9, 8), (6, 10, 7)])
def test_output_size(size: tuple[int, ...]) -> None:
    layer = sp.nn.FabricConvTranspose2d(sp.fabric("low_rank", 8, 6, rank=2), 3, 2, 1)
    twin = nn.ConvTranspose2d(8, 6, 3, 2, 1)
    x = torch.zeros(3, 8, 5, 4)
    if len(size) == 3:
        x = x[0]
    assert layer(x, size).shape == twin(x, size).shape


@pytest.mark.parametrize("size", [(8, 7), (11, 7), (9,), (1, 2, 3, 9, 7)])
def test_impossible_output_size(size: tuple[int, ...]) -> None:
    layer = sp.nn.FabricConvTranspose2d(sp.fabric("low_rank", 8, 6, rank=2), 3, 2, 1)
    with pytest.raises(sp.SparsifyError, match=r"between \(9, 7\) and \(10, 8\) .* \(5, 4\)"):
        layer(torch.zeros(1, 8, 5, 4), size)


MIXING = sp.fabric("monarch", 16, 16, blocks=4)
MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "padding by name": (
        lambda: sp.nn.FabricConvTranspose1d(MIXING, 3, padding="same"),
        "padded by sizes; got 'same'",
    ),
    "output padding of a stride": (
        lambda: sp.nn.FabricConvTranspose1d(MIXING, 3, stride=2, output_padding=2),
        r"less than stride or dilation; got \(2,\) with stride \(2,\)",
    ),
    "negative output padding": (
        lambda: sp.nn.FabricConvTranspose1d(MIXING, 3, output_padding=-1),
        "output_padding must",
    ),
    "mixed groups": (
        lambda: sp.nn.FabricConvTranspose2d(MIXING, 3, groups=2),
        "mixes the 2 groups",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    call, message = MISTAKES[name]
    with pytest.raises(sp.ConfigError, match=message):
        call()


# --- standing in for nn.ConvTranspose ------------------------------------------------------------


def _twins(rank: int, **options: Any) -> tuple[nn.Module, FabricLayer]:
    module = DENSE[rank](64, 32, **options)
    groups = options.get("groups", 1)
    fabric = sp.fabric("monarch", 64 // groups, 32 // groups, blocks=4).repeat(groups)
    return module, replacement(module, fabric)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_replacement_takes_the_geometry(rank: int, groups: int) -> None:
    options = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}
    module, layer = _twins(rank, **options, groups=groups)
    read = dense(module)
    assert read is not None
    assert (read.kind, read.in_features, read.out_features) == (f"conv_transpose{rank}d", 64, 32)
    assert (read.kernel, read.groups) == ((3,) * rank, groups)
    for name in (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding",
        "dilation", "groups", "padding_mode",
    ):  # fmt: skip
        assert getattr(layer, name) == getattr(module, name), name
    assert layer.weight.shape == module.weight.shape
    x = torch.zeros(1, 64, *(4,) * rank)
    assert layer(x).shape == module(x).shape


INITS = {
    "doubles": {"kernel_size": 2, "stride": 2},
    "overlaps": {"kernel_size": 4, "stride": 2, "padding": 1},
    "uneven phases": {"kernel_size": 3, "stride": 2, "output_padding": 1},
    "same size": {"kernel_size": 3, "padding": 1},
    "grouped": {"kernel_size": 4, "stride": 2, "groups": 2},
    "far apart": {"kernel_size": 2, "stride": 3},
}


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("scheme", ["orthogonal", "variance"])
@pytest.mark.parametrize("wider", [False, True])
def test_output_variance_is_the_dense_layers(name: str, scheme: str, wider: bool) -> None:
    torch.manual_seed(0)
    sizes = (96, 384) if wider else (384, 96)
    module = nn.ConvTranspose2d(*sizes, **INITS[name], bias=False)
    model = nn.Sequential(module, nn.ReLU(), nn.Conv2d(sizes[1], 4, 1))
    converted = sp.sparsify(model, torch.zeros(2, sizes[0], 6, 6), init=scheme, budget=0.3)[0]
    assert isinstance(converted, sp.nn.FabricConvTranspose2d)
    own = sp.nn.FabricConvTranspose2d(converted.fabric, bias=False, **INITS[name])
    x = torch.randn(8, sizes[0], 20, 20)
    with torch.no_grad():
        inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
        expected = module(x)[inner].square().mean()
        for layer in (converted, own) if scheme == "orthogonal" else (converted,):
            assert layer(x)[inner].square().mean() == pytest.approx(expected.item(), rel=0.04)


def test_bias_is_drawn_as_the_dense_layers() -> None:
    module = nn.ConvTranspose2d(32, 4096, 3, groups=2)
    layer = sp.nn.FabricConvTranspose2d(
        sp.fabric("low_rank", 16, 2048, rank=4).repeat(2), 3, groups=2
    )
    assert layer.bias.abs().max().item() == pytest.approx(module.bias.abs().max().item(), rel=0.01)


def test_an_orthogonal_one_without_overlap_is_an_isometry() -> None:
    for fabric in (
        Fabric(32, 32, ((Stage(1, 32, 32, 1),),)),
        sp.fabric("monarch", 64, 64, blocks=8),
    ):
        layer = sp.nn.FabricConvTranspose2d(fabric, 2, stride=2, bias=False, dtype=torch.float64)
        x = _input(4, layer.in_channels, 5, 5)
        ratio = layer(x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
        assert torch.allclose(ratio, ratio[:1], rtol=1e-9)


def test_the_last_of_equal_stages_spreads() -> None:
    """So that as much as possible runs on the small image; a convolution takes the first."""
    fabric = sp.fabric("monarch", 64, 64, blocks=8)
    up = sp.nn.FabricConvTranspose2d(fabric, 2, stride=2).fabric
    down = sp.nn.FabricConv2d(fabric, 2, stride=2).fabric
    assert [bool(stage.kernel) for stage in up.stages] == [False, True]
    assert [bool(stage.kernel) for stage in down.stages] == [True, False]


# --- in a model ----------------------------------------------------------------------------------


class Decoder(nn.Module):
    """From a small image to a large one, the size of the last step asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Conv2d(3, 64, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(64, 64, 2, 2)
        self.up2 = nn.ConvTranspose2d(64, 32, 3, 2, 1, bias=False)
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up1(self.inp(x).relu()).relu()
        h = self.up2(h, output_size=(4 * x.shape[2], 4 * x.shape[3])).relu()
        y: Tensor = self.out(h)
        return y


def test_rows_and_flops_of_sites() -> None:
    plan = sp.plan(Decoder(), torch.zeros(2, 3, 5, 4), budget=0.25)
    sites = {site.name: site for site in plan.sites}
    one, two = sites["up1"], sites["up2"]
    assert (one.decision, two.decision) == ("replace", "replace")
    assert (one.kind, one.rows, one.in_rows) == ("conv_transpose2d", 2 * 10 * 8, 2 * 5 * 4)
    assert (two.rows, two.in_rows) == (2 * 20 * 16, 2 * 10 * 8)
    assert one.dense_flops == 2 * 64 * 64 * 4 * 2 * 5 * 4
    assert two.dense_flops == 2 * 64 * 32 * 9 * 2 * 10 * 8


def test_flops_count_each_stage_where_it_runs() -> None:
    site = Site("", "conv_transpose2d", 6, 6, (3, 3), rows=256, in_rows=64)
    steps = (Stage(1, 6, 6, 1), Stage(2, 3, 3, 1, (3, 3)), Stage(1, 2, 2, 3))
    assert site.flops_of(Fabric(6, 6, (steps,))) == 2 * (36 * 64 + 18 * 9 * 64 + 12 * 256)
    point = Site("", "conv_transpose2d", 6, 6, (1, 1), rows=256, in_rows=64)
    assert point.flops_of(Fabric(6, 6, ((Stage(1, 6, 6, 1),),))) == 2 * 36 * 64


def test_a_transposed_convolution_of_no_layer_is_listed() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.kernel = nn.Parameter(torch.ones(64, 8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv_transpose1d(self.first(x).mT, self.kernel, groups=4)

    plan = sp.plan(Raw(), torch.zeros(2, 5, 64))
    (site,) = (site for site in plan.sites if site.name.startswith("kernel"))
    assert site.decision == "keep"
    assert (site.in_features, site.out_features, site.groups) == (64, 32, 4)
    assert site.dense_parameters == 64 * 8 * 3
    assert site.dense_flops == 2 * 64 * 8 * 3 * 2 * 5


def test_convert_train_save_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Decoder(), torch.randn(2, 3, 5, 4)
    sparse = sp.sparsify(model, x, budget=0.25)
    assert isinstance(sparse.up1, sp.nn.FabricConvTranspose2d)
    target = torch.randn(2, 2, 20, 16)
    optimizer = torch.optim.Adam(sparse.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = (sparse(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    sp.save(sparse, tmp_path / "m.safetensors")
    loaded = sp.load(tmp_path / "m.safetensors", model=Decoder())
    assert torch.equal(loaded(x), sparse(x))


def test_autocast() -> None:
    layer = sp.nn.FabricConvTranspose2d(MIXING, 3, 2)
    x = torch.randn(2, 16, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), layer(x), atol=0.05)


@pytest.mark.parametrize("kernel", [3, 1])
def test_compile(kernel: int) -> None:
    layer = sp.nn.FabricConvTranspose2d(MIXING, kernel, 2)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for samples in (4, 6):
        x = torch.randn(samples, 16, 5, 5, requires_grad=True)
        y = compiled(x)
        assert torch.equal(y, layer(x))
        y.sum().backward()
    torch.compiler.reset()


class Up(nn.Module):
    """With and without taps, with graphs, in groups."""

    def __init__(self) -> None:
        super().__init__()
        graphs = sp.fabric("random_regular", 16, 16, degree=4, stages=2)
        grouped = sp.fabric("monarch", 8, 8, blocks=2).repeat(2)
        self.taps = sp.nn.FabricConvTranspose2d(MIXING, 3, 2, 1, 1)
        self.point = sp.nn.FabricConvTranspose2d(MIXING, 1, 2)
        self.graphs = sp.nn.FabricConvTranspose2d(graphs, 4, 2)
        self.grouped = sp.nn.FabricConvTranspose2d(grouped, (2, 3), (2, 3), groups=2, dilation=2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        taps = self.taps(x)
        names = ("point", "graphs", "grouped")
        return {"taps": taps, **{name: getattr(self, name)(taps) for name in names}}


def test_export(tmp_path: Path) -> None:
    path, net = tmp_path / "m.onnx", Up()
    dynamic = {"x": {0: "batch", 2: "height", 3: "width"}}
    report = sp.export_onnx(net, path, {"x": torch.randn(2, 16, 5, 4)}, dynamic=dynamic)
    assert report is not None
    assert report.passed
    model = onnx.load(path)
    kinds = [n.op_type for n in model.graph.node if n.domain == "ai.sparsify"]
    assert sorted(set(kinds)) == [
        *(f"FabricConvTransposeIndexed_v1_{i}" for i in range(1)),
        *(f"FabricConvTranspose_v1_{i}" for i in range(3)),
    ]
    inside = {node.op_type for function in model.functions for node in function.node}
    assert "ConvTranspose" in inside
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for samples, height, width in ((1, 3, 6), (3, 7, 2)):
        x = torch.randn(samples, 16, height, width)
        with torch.no_grad():
            expected = net(x)
        for name, y in zip(names, session.run(None, {"x": x.numpy()}), strict=True):
            assert torch.allclose(torch.from_numpy(y), expected[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("rank", [1, 3])
def test_export_of_other_ranks(rank: int, tmp_path: Path) -> None:
    layer = CLASSES[rank](MIXING, 3, 2, 1, 1)
    report = sp.export_onnx(layer, tmp_path / "m.onnx", (torch.randn(2, 16, *(4,) * rank),))
    assert report is not None
    assert report.passed
