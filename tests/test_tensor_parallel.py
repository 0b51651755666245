"""Fabrics divided over processes: the same numbers as in one, and what is sent for them."""

from __future__ import annotations

import copy
import itertools
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional

import sparsify as sp
from sparsify.demo.model import ByteTransformer
from sparsify.distributed import FabricParallel
from sparsify.distributed.division import chunk, part_of
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.topology import TOPOLOGIES
from tests.support.fabrics import dense_matrix, random_fabrics, random_factors
from tests.support.ranks import message_of, needs_ranks, run_ranks
from tests.support.training import (
    INPUTS,
    batch,
    converted,
    dense,
    farthest,
    loss_of,
    optimizer_of,
    plan_in,
    restore,
    store,
    train,
    whole,
)

pytestmark = needs_ranks

SLOW = pytest.mark.slow
WORLDS = [2, pytest.param(1, marks=SLOW), pytest.param(3, marks=SLOW), pytest.param(4, marks=SLOW)]
FABRICS = 31  # of each family
CLOSE = 1e-5
CLIP = 0.5  # below the norm that these gradients have
UP = FabricParallel(output_layouts=Shard(-1))
DOWN = FabricParallel(input_layouts=Shard(-1))
PAIRS = {"blocks.*.mlp.0": UP, "blocks.*.mlp.2": DOWN}


@contextmanager
def _counted() -> Iterator[list[int]]:
    """The numbers that this rank sends to others, one count for each all-to-all."""
    real, counts = dist.all_to_all_single, []

    def counting(
        received: Tensor, sent: Tensor, into: list[int], out: list[int], group: Any
    ) -> None:
        counts.append((sum(out) - out[dist.get_rank(group)]) * sent.shape[1])
        real(received, sent, into, out, group)

    dist.all_to_all_single = counting
    try:
        yield counts
    finally:
        dist.all_to_all_single = real


# --- one job does many checks, for starting one costs most ---------------------------------------


def _job(rank: int, world: int, folder: Path, first: int) -> dict[str, Any]:
    """What a rank finds; the tests below look at it."""
    mesh = init_device_mesh("cpu", (world,))
    return {
        "fabrics": _every_family(mesh, first),
        "sent": _pair(mesh),
        "net": _net(mesh),
        "clipped": _clipped(mesh),
        "bytes": _bytes(mesh),
        "rules": _rules(mesh),
        "others": _other_uses(mesh),
        "errors": _errors(mesh),
    }


BY_HAND = [  # shuffles at the ends, several branches that wrap and fold, blocks too few to divide
    Fabric(
        10,
        9,
        (
            (Shuffle(12, seed=1), Stage(3, 4, 4, 1), Stage(4, 4, 3, 1), Shuffle(16, seed=2)),
            (Stage(1, 2, 10, 1), Stage(1, 9, 2, 1)),
            (Stage(2, 3, 5, 1), Stage(1, 2, 1, 6), Shuffle(12, stride=3)),
        ),
    )
]


def _every_family(mesh: DeviceMesh, first: int) -> dict[str, float]:
    """The largest error of a layer's output and gradients, relative to the largest number."""
    found = {}
    layouts = [(Replicate(), Replicate()), (Shard(-1), Shard(-1))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ranks that have nothing to do
        for family in TOPOLOGIES:
            fabrics = itertools.islice(random_fabrics(family, FABRICS), first, None)
            for number, fabric in enumerate(fabrics):
                found[f"{family} {number}: {fabric}"] = _error(fabric, mesh, *layouts[number % 2])
        for fabric, layout in itertools.product(BY_HAND, layouts):
            found[f"{layout}: {fabric}"] = _error(fabric, mesh, *layout)
    return found


def _error(fabric: Fabric, mesh: DeviceMesh, reads: Placement, writes: Placement) -> float:
    torch.manual_seed(0)
    layer = sp.nn.FabricLinear(fabric, dtype=torch.float64)
    with torch.no_grad():
        for own, factor in zip(layer.factors, random_factors(fabric), strict=True):
            own.copy_(factor)
    x = torch.randn(2, 3, fabric.in_features, dtype=torch.float64)
    grad = torch.randn(2, 3, fabric.out_features, dtype=torch.float64)
    layer(x).backward(grad)  # for the gradients of the factors; the others come from the matrix
    matrix = torch.from_numpy(dense_matrix(fabric, list(layer.factors)))

    style = FabricParallel(input_layouts=reads, output_layouts=writes)
    divided = parallelize_module(copy.deepcopy(layer), mesh, style)
    for parameter in divided.parameters():
        parameter.grad = None
    own_x = _cut(x, reads, mesh).requires_grad_()
    y = divided(own_x)
    y.backward(_cut(grad, writes, mesh))
    pairs = [
        (y, _cut(x @ matrix.T + layer.bias, writes, mesh)),
        (own_x.grad, _cut(grad @ matrix, reads, mesh)),
        (divided.weight, matrix),
    ]
    for own, expected in zip(divided.parameters(), layer.parameters(), strict=True):
        assert own.grad.placements == own.placements
        pairs.append((own.grad.full_tensor(), expected.grad))
    return max(_distance(one, other) for one, other in pairs)


def _cut(x: Tensor, layout: Placement, mesh: DeviceMesh) -> Tensor:
    """This rank's part of the features, contiguous."""
    if layout == Replicate():
        return x.clone()
    return x[..., chunk(x.shape[-1], mesh.get_local_rank(), mesh.size())].clone()


def _distance(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    if not one.numel():
        return 0.0
    return ((one - other).abs().max() / other.abs().max().clamp(min=1)).item()


def _pair(mesh: DeviceMesh) -> dict[str, Any]:
    """What two fabrics send, 64 -> 256 -> 64, and how often."""
    found = {}
    for family, options in (("monarch", {"blocks": 16}), ("low_rank", {"rank": 4})):
        up, down = (sp.nn.FabricLinear(sp.fabric(family, *sizes, **options)) for sizes in SIZES)
        model = nn.Sequential(up, nn.GELU(), down)
        parallelize_module(model, mesh, {"0": UP, "2": DOWN})
        x = torch.randn(5, 64, requires_grad=True)
        with CommDebugMode() as calls, _counted() as forward:
            y = model(x)
        with _counted() as backward:
            y.sum().backward()
        calls = calls.get_total_counts()
        found[family] = {"forward": forward, "backward": backward, "calls": calls}
    return found


def _net(mesh: DeviceMesh) -> dict[str, Any]:
    model = parallelize_module(converted(), mesh, PAIRS)
    shares = {
        name: parameter.to_local().numel() / parameter.numel()
        for name, parameter in model.named_parameters()
        if isinstance(parameter, DTensor) and ".factors." in name
    }
    names = {name: parameter.shape for name, parameter in model.named_parameters()}
    losses = train(model)
    plain = converted(seed=1)
    plain.load_state_dict(
        get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    )
    return {
        "shares": shares,
        "names": names,
        "trained": (losses, whole(model)),
        "gathered": farthest(whole(plain), whole(model)),
        "save": message_of(lambda: sp.save(model, "never.safetensors")),
    }


def _clipped(mesh: DeviceMesh) -> tuple[list[float], dict[str, Tensor]]:
    """Gradients of three kinds, clipped: plain, of divided layers, of layers sharded elsewhere."""
    other = init_device_mesh("cpu", (1, mesh.size()), mesh_dim_names=("data", "tensor"))
    model = converted()
    parallelize_module(model.blocks[0], other["tensor"], {"mlp.0": UP, "mlp.2": DOWN})
    sp.distributed.fully_shard(model.blocks[1], mesh)
    loss_of(model, *batch(0)).backward()
    clip = sp.distributed.clip_grad_norm_
    norms = [clip(model.parameters(), most) for most in (math.inf, CLIP, CLIP)]
    assert not any(isinstance(norm, DTensor) for norm in norms)
    return [norm.item() for norm in norms], _gradients(model)


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Any] = {name: p.grad for name, p in model.named_parameters()}
    return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}


def _bytes(mesh: DeviceMesh) -> Any:
    model = parallelize_module(
        _byte_transformer(), mesh, {"blocks.*.fc1": UP, "blocks.*.fc2": DOWN}
    )
    return _trained_bytes(model)


def _byte_transformer() -> nn.Module:
    torch.manual_seed(0)
    return sp.sparsify(ByteTransformer(64, 2, 16), budget=0.2, include=["blocks.*.fc?"])


def _trained_bytes(model: nn.Module) -> tuple[list[float], dict[str, Tensor]]:
    optimizer = optimizer_of(model)
    random, losses = torch.Generator().manual_seed(0), []
    for _ in range(20):
        text = torch.randint(256, (4, 17), generator=random)
        scores = model(text[:, :-1])
        loss = functional.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, whole(model)


def _rules(mesh: DeviceMesh) -> dict[str, Any]:
    """Layers with replicated DTensors as parameters, and inputs of many layouts."""
    torch.manual_seed(0)
    linear = sp.nn.FabricLinear(sp.fabric("monarch", 16, 24, blocks=4))
    conv = sp.nn.FabricConv2d(sp.fabric("monarch", 16, 24, blocks=4), 3, padding=1)
    cases = [(linear, torch.randn(4, 6, 16), place) for place in (0, 1, 2)]
    cases += [(conv, torch.randn(4, 16, 5, 5), place) for place in (0, 1)]
    found = {}
    for layer, x, place in cases:
        layer.zero_grad()
        own = x.clone().requires_grad_()
        expected = layer(own)
        expected.square().sum().backward()
        divided = distribute_module(copy.deepcopy(layer), mesh)
        divided.zero_grad()
        own_x = distribute_tensor(x, mesh, [Shard(place)]).requires_grad_()
        with CommDebugMode() as calls:
            y = divided(own_x)
            y.square().sum().backward()
        pairs = [(y, expected), (own_x.grad, own.grad)]
        pairs += zip((p.grad for p in divided.parameters()), grads_of(layer), strict=True)
        found[f"{type(layer).__name__} {place}"] = {
            "layout": y.placements[0],
            "gradients": {parameter.grad.placements[0] for parameter in divided.parameters()},
            "calls": calls.get_total_counts(),
            "error": max(_distance(one.full_tensor(), other) for one, other in pairs),
        }
        with torch.inference_mode():
            assert torch.equal(divided(own_x).full_tensor(), y.full_tensor())
    found["mixed"] = message_of(lambda: divided(x))
    return found


def grads_of(layer: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in layer.parameters()]


def _other_uses(mesh: DeviceMesh) -> dict[str, float]:
    """Distances from what a layer in one process computes."""
    torch.manual_seed(0)
    layer = sp.nn.FabricLinear(sp.fabric("expander", 24, 12, degree=4, stages=2))
    stages = sp.nn.FabricTransposedLinear(sp.fabric("low_rank", 24, 16, rank=3))
    dense = nn.Sequential(nn.Linear(24, 24), copy.deepcopy(layer), nn.Linear(12, 8))
    x = torch.randn(6, 24)
    found = {}

    divided = parallelize_module(copy.deepcopy(layer), mesh, FabricParallel())
    found["a copy"] = _distance(copy.deepcopy(divided)(x), layer(x))
    found["no rows"] = float(divided(x[:0]).shape != (0, 12))
    found["a DTensor"] = _distance(divided(distribute_tensor(x, mesh, [Shard(0)])), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert divided(x).dtype == torch.bfloat16
        found["autocast"] = _distance(divided(x), layer(x)) / 1e3
    divided.half().float()

    divided = parallelize_module(copy.deepcopy(stages), mesh, FabricParallel())
    found["transposed"] = _distance(divided(x), stages(x))
    found["its weight"] = _distance(divided.weight, stages.weight)

    between = FabricParallel(input_layouts=Shard(-1), output_layouts=Shard(-1))
    plan = {"0": ColwiseParallel(), "1": between, "2": RowwiseParallel()}
    found["beside dense layers"] = _distance(
        parallelize_module(copy.deepcopy(dense), mesh, plan)(x), dense(x)
    )
    return found


def _errors(mesh: DeviceMesh) -> dict[str, str]:
    def layer() -> nn.Module:
        return sp.nn.FabricLinear(sp.fabric("monarch", 16, 24, blocks=4))

    conv = sp.nn.FabricConv2d(sp.fabric("monarch", 16, 24, blocks=4), 3)
    divided = parallelize_module(layer(), mesh, FabricParallel())
    square = init_device_mesh("cpu", (1, mesh.size()), mesh_dim_names=("one", "two"))
    return {
        "layout": message_of(lambda: FabricParallel(input_layouts=Shard(0))),
        "dense": message_of(lambda: parallelize_module(nn.Linear(3, 3), mesh, FabricParallel())),
        "conv": message_of(lambda: parallelize_module(conv, mesh, FabricParallel())),
        "twice": message_of(lambda: parallelize_module(divided, mesh, FabricParallel())),
        "mesh": message_of(lambda: parallelize_module(layer(), square, FabricParallel())),
        "width": message_of(lambda: divided(torch.zeros(2, 15))),
    }


SIZES = ((64, 256), (256, 64))
Findings = tuple[int, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=WORLDS)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    world = request.param
    first = 25 if world == 2 else 0  # the first 25 have the smallest widths
    return world, run_ranks(_job, world, tmp_path_factory.mktemp("job"), first, seconds=300)


@pytest.fixture(scope="module")
def alone() -> tuple[list[float], dict[str, Tensor]]:
    model = converted()
    return train(model), whole(model)


def test_every_fabric_computes_what_its_matrix_says(job: Findings) -> None:
    for found in job[1]:
        assert len(found["fabrics"]) >= 6 * len(list(TOPOLOGIES))
        assert {name: error for name, error in found["fabrics"].items() if error > 1e-9} == {}


def test_what_is_sent(job: Findings) -> None:
    """Three exchanges of evenly spread features, and a gather; with the same way back."""
    world, ranks = job
    if world == 3:
        return  # where features cannot be spread evenly
    widths = [sp.fabric("monarch", *sizes, blocks=16).stages[0].out_features for sizes in SIZES]
    rows, others = 5, (world - 1) / world
    expected = [rows * width / world * others for width in (widths[0], 256, widths[1])]
    expected.append(rows * 64 * others)
    for found in ranks:
        sent = found["sent"]["monarch"]
        assert sent["calls"] == len(sent["forward"])
        assert sent["forward"] == (expected if world > 1 else [])
        assert sent["backward"] == (expected[-2::-1] + expected[-1:] if world > 1 else [])
        sent = found["sent"]["low_rank"]  # beside the gather, an all-reduce of 4 features for each
        assert sent["forward"] == sent["backward"] == expected[-1:] * (world > 1)
        assert sent["calls"] == 3 * (world > 1)


def test_training_is_training_in_one_process(job: Findings, alone: Any) -> None:
    torch_bytes = _trained_bytes(_byte_transformer())
    for found in job[1]:
        for one, other in ((found["net"]["trained"], alone), (found["bytes"], torch_bytes)):
            assert len(one[0]) == 20
            assert max(abs(a - b) for a, b in zip(one[0], other[0], strict=True)) <= CLOSE
            assert farthest(one[1], other[1]) <= CLOSE


def test_clipping_is_clipping_in_one_process(job: Findings) -> None:
    model = converted()
    loss_of(model, *batch(0)).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP).item()
    assert norm > 2 * CLIP
    for found in job[1]:
        norms, gradients = found["clipped"]
        assert norms == pytest.approx([norm, norm, CLIP], rel=1e-5)
        assert farthest(gradients, _gradients(model)) <= 1e-6


def test_every_rank_holds_its_part(job: Findings) -> None:
    world, ranks = job
    shapes = {name: parameter.shape for name, parameter in converted().named_parameters()}
    for found in ranks:
        shares = found["net"]["shares"]
        assert set(shares) == {name for name in shapes if ".mlp." in name and "factors" in name}
        assert found["net"]["names"] == shapes
        for share in shares.values():
            assert share == pytest.approx(1 / world, rel=0 if world != 3 else 0.4)


def test_a_divided_model_is_saved_whole(job: Findings) -> None:
    for found in job[1]:
        assert found["net"]["gathered"] == 0
        assert "get_model_state_dict" in found["net"]["save"]


def test_rows_of_dtensors_stay_divided(job: Findings) -> None:
    world, ranks = job
    for found in ranks:
        rules = found["rules"]
        assert rules.pop("mixed").startswith("OperandError: The input, all factors and the bias")
        for name, rule in rules.items():
            is_row = name in ("FabricLinear 0", "FabricLinear 1", "FabricConv2d 0")
            assert rule["layout"] == (Shard(int(name[-1])) if is_row else Replicate()), name
            assert rule["gradients"] == {Partial() if is_row else Replicate()}
            assert rule["error"] < 1e-5
            if is_row or world == 1:
                assert rule["calls"] == 0


def test_other_uses(job: Findings) -> None:
    for found in job[1]:
        assert {name: far for name, far in found["others"].items() if far > CLOSE} == {}


def test_errors(job: Findings) -> None:
    for found in job[1]:
        errors = found["errors"]
        assert errors["layout"].startswith("ConfigError: input_layouts is Replicate() or Shard(-1)")
        for name, kind in (("dense", "Linear"), ("conv", "FabricConv2d"), ("twice", "Divided")):
            assert f"divides FabricLinear and FabricTransposedLinear; got {kind}" in errors[name]
        assert 'Take one of them, such as mesh["tp"]' in errors["mesh"]
        assert "needs 16 features on its last axis on this rank" in errors["width"]


# --- checkpoints, and two ways to be parallel ----------------------------------------------------


def _run(
    rank: int, world: int, folder: Path, steps: range, start: str = "", end: str = ""
) -> dict[str, Tensor]:
    plan = plan_in(folder / start) if start else sp.plan(dense(), INPUTS, budget=0.3)
    model = sp.sparsify(dense(seed=7 if start else 0), INPUTS, plan=plan)
    if world > 1:
        parallelize_module(model, init_device_mesh("cpu", (world,)), PAIRS)
    optimizer = optimizer_of(model)
    if start:
        assert restore(folder / start, model, optimizer) == steps.start
    train(model, steps=steps, optimizer=optimizer)
    if end:
        store(folder / end, model, optimizer, plan, steps.stop)
    return whole(model)


@pytest.mark.parametrize(
    "worlds",
    [(2, 1), pytest.param((1, 2), marks=SLOW), pytest.param((4, 2), marks=SLOW)],
    ids=str,
)
def test_resuming_on_another_number_of_ranks(
    worlds: tuple[int, int], tmp_path: Path, alone: Any
) -> None:
    run_ranks(_run, worlds[0], tmp_path, range(10), "", "half")
    resumed = run_ranks(_run, worlds[1], tmp_path, range(10, 20), "half")[0]
    assert farthest(resumed, alone[1]) <= CLOSE


def _grid(rank: int, world: int, folder: Path) -> tuple[list[float], dict[str, Tensor], float]:
    """Data in two halves, each divided over two ranks."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("data", "tensor"))
    model = parallelize_module(converted(), mesh["tensor"], PAIRS)
    sp.distributed.fully_shard(model, mesh["data"])
    factor = model.blocks[0].mlp[0].factors[0]
    share = factor.to_local().numel() / factor.numel()
    return train(model, mesh.get_local_rank("data"), 2), whole(model), share


@pytest.mark.slow
def test_data_and_tensor_parallel(tmp_path: Path, alone: Any) -> None:
    for _, parameters, share in run_ranks(_grid, 4, tmp_path):
        assert farthest(parameters, alone[1]) <= CLOSE
        assert share == 1 / 4


def _compiled(rank: int, world: int, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (world,))
    layer = sp.nn.FabricLinear(sp.fabric("monarch", 16, 24, blocks=4))
    x = torch.randn(4, 16)
    rows = distribute_tensor(x, mesh, [Shard(0)])
    for style, own in ((FabricParallel(), x), (None, rows)):
        model = copy.deepcopy(layer)
        model = parallelize_module(model, mesh, style) if style else distribute_module(model, mesh)
        y = torch.compile(model, backend="aot_eager")(own)
        y.sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert _distance(y.full_tensor() if own is rows else y, layer(x)) < CLOSE


@pytest.mark.slow
def test_compiled(tmp_path: Path) -> None:
    run_ranks(_compiled, 2, tmp_path)


@pytest.mark.slow
def test_dtensors_may_come_later_than_layers(tmp_path: Path) -> None:
    """The rules wait until torch.distributed.tensor is imported."""
    code = f"""
import sys, torch, sparsify as sp
layer = sp.nn.FabricLinear(sp.fabric("monarch", 16, 24, blocks=4))
x = torch.randn(4, 16)
y = layer(x)
assert "torch.distributed.tensor" not in sys.modules
from torch.distributed.tensor import distribute_module, distribute_tensor, init_device_mesh
store = torch.distributed.FileStore({str(tmp_path / "store")!r}, 1)
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
assert torch.equal(distribute_module(layer, mesh)(distribute_tensor(x, mesh)).to_local(), y)
torch.distributed.destroy_process_group()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- without processes ---------------------------------------------------------------------------

STAGES = [
    Stage(8, 3, 5, 1),
    Stage(1, 3, 5, 8),
    Stage(3, 2, 4, 5),
    Stage(1, 16, 3, 1),
    Stage(1, 3, 16, 1),
    Stage(2, 1, 1, 2),
    Stage(1, 1, 1, 1),
    GraphStage("random", 16, 12, 4, seed=1),
]


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_parts_add_up_to_the_stage(stage: Stage | GraphStage, ranks: int) -> None:
    """In numpy, with the weights that DTensor gives to each rank."""
    (weight,) = random_factors(Fabric(stage.in_features, stage.out_features, ((stage,),)))
    total = np.zeros((stage.out_features, stage.in_features))
    axis = sp.distributed.division.axis_of(stage, ranks)
    chunks = weight.chunk(ranks, axis)
    for rank in range(ranks):
        part = part_of(stage, rank, ranks)
        place = np.ix_(part.outputs, part.inputs)
        if rank >= len(chunks):
            assert not part.inputs.size
            assert not part.outputs.size
        elif part.columns is not None:
            dense_part = np.zeros((len(part.outputs), len(part.inputs)))
            np.put_along_axis(dense_part, part.columns, chunks[rank].numpy(), axis=1)
            total[place] += dense_part
        else:
            total[place] += dense_matrix(Fabric.from_json(part.fabric), [chunks[rank]])
    whole_stage = Fabric(stage.in_features, stage.out_features, ((stage,),))
    np.testing.assert_allclose(total, dense_matrix(whole_stage, [weight]))


def test_shares() -> None:
    fabric = sp.fabric("clos", 64, 64, ingress=8, middle=6)
    assert sp.distributed.largest_shares(fabric, 2) == (1 / 2, 1 / 2, 1 / 2)
    assert max(sp.distributed.largest_shares(fabric, 4)) == 1 / 4
    for ranks in (1, 3, 5):
        for share, stage in zip(
            sp.distributed.largest_shares(fabric, ranks), fabric.stages, strict=True
        ):
            assert share >= 1 / ranks
            assert math.isclose(share * stage.parameters % 1, 0)
    with pytest.raises(sp.ConfigError, match="ranks"):
        sp.distributed.largest_shares(fabric, 0)
    for wrong in ("monarch", sp.nn.FabricLinear(fabric)):
        with pytest.raises(sp.ConfigError, match=r"must be a Fabric, .* layer\.fabric is it; got"):
            sp.distributed.largest_shares(wrong, 2)
