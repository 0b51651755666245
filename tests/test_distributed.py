"""Jobs of several processes: alike conversion, DDP and FSDP as in one, checkpoints, a death."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import fsdp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import sparsify as sp
from sparsify.init import generator
from sparsify.io.recipe import fabrics, recipe_json
from sparsify.nn import FabricLayer
from tests.support.ranks import message_of, needs_ranks, run_ranks
from tests.support.training import (
    INPUTS,
    converted,
    dense,
    farthest,
    train,
    train_in_parts,
    whole,
)
from tests.support.zoo import ZOO, call, first_tensor, make

pytestmark = needs_ranks

SLOW = pytest.mark.slow
WORLDS = [2, pytest.param(1, marks=SLOW), pytest.param(4, marks=SLOW)]
TRANSFORMERS = ("Llama", "GPT-2", "T5", "Mixtral", "ViT", "Mamba")
CLOSE = 1e-5
CLIP = 0.5  # below the norms that these gradients have


# --- one job does many checks, for starting one costs most ---------------------------------------


def _job(rank: int, world: int, folder: Path) -> dict[str, Any]:
    """What a rank finds; the tests below look at it."""
    model = converted()
    found: dict[str, Any] = {"recipe": recipe_json(fabrics(model)), "converted": whole(model)}
    sp.distributed.check_agreement(model)
    if world > 1:
        found |= _disagreements(rank, model)
        found["misuses"] = _misuses(model)
    found["ddp"], found["wrapped errors"] = _ddp(rank, world, copy.deepcopy(model))
    found["half"] = _half_precision(rank, world, copy.deepcopy(model))
    found["tied"] = _tied(rank, world, copy.deepcopy(model))
    found |= _fsdp(rank, world, folder, model)
    found["meta"] = _from_meta()
    return found


def _disagreements(rank: int, model: nn.Module) -> dict[str, str]:
    others = {name: copy.deepcopy(model) for name in ("value", "type", "name", "frozen")}
    if rank == 1:
        others["value"].stem[2].factors[0].data[0, 0, 0, 0] += 1e-6
        others["type"].head.bias.data = others["type"].head.bias.data.half()
        del others["name"].blocks[1]
        others["frozen"].head.weight.requires_grad_(False)
    others["budget"] = converted(budget=0.2 if rank == 1 else 0.3)
    alone = dist.new_group([1])
    check = sp.distributed.check_agreement
    found = {name: message_of(partial(check, other)) for name, other in others.items()}
    return found | {"alone": message_of(lambda: check(others["value"], alone))}


def _misuses(model: nn.Module) -> dict[str, str]:
    shard, whole_world = sp.distributed.fully_shard, dist.group.WORLD
    ours, torchs, plain = (copy.deepcopy(model) for _ in range(3))
    shard(ours)
    fsdp.fully_shard(torchs)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        sp.distributed.check_agreement(ours)
    return {
        "late check": " ".join(str(warning.message) for warning in warned),
        "twice": message_of(lambda: shard(ours)),
        "after torch's own": message_of(lambda: shard(torchs)),
        "DDP": message_of(lambda: shard(DistributedDataParallel(plain))),
        "group": message_of(lambda: shard(plain, whole_world)),
    }


def _ddp(rank: int, world: int, plain: nn.Module) -> Any:
    model = DistributedDataParallel(plain)
    calls = {
        "save": partial(sp.save, model, "ddp.safetensors"),
        "convert": partial(sp.sparsify, model, INPUTS),
    }
    errors = {name: message_of(call) for name, call in calls.items()}
    return (train(model, rank, world), whole(model)), errors


def _half_precision(rank: int, world: int, model: nn.Module) -> Any:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    sp.distributed.fully_shard(model, mp_policy=policy)
    seen = {p.dtype for p in model.parameters()}
    model.blocks[0].mlp[0].register_forward_hook(lambda *call: seen.add(call[2].dtype))
    return train(model, rank, world, range(5)), seen


def _fsdp(rank: int, world: int, folder: Path, model: nn.Module) -> dict[str, Any]:
    every = sum(p.numel() for p in model.parameters())
    assert sp.distributed.fully_shard(model) is model
    errors = {
        "save": message_of(lambda: sp.save(model, folder / f"{rank}.safetensors")),
        "save .pt2": message_of(lambda: sp.save(model, folder / f"{rank}.pt2")),
        "export": message_of(lambda: sp.export_onnx(model, folder / f"{rank}.onnx", INPUTS)),
        "convert": message_of(lambda: sp.plan(model, INPUTS)),
    }
    assert not [path for path in folder.iterdir() if path.suffix]
    found = {
        "share": sum(p.to_local().numel() for p in model.parameters()) / every,
        "shares": {n: p.to_local().numel() / p.numel() for n, p in model.named_parameters()},
        "wrapped": [n for n, part in model.named_modules() if isinstance(part, FSDPModule)],
        "errors": errors,
        "fsdp": (train(model, rank, world, clip=CLIP), whole(model)),
    }
    gathering = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=gathering)
    if rank == 0:  # what the message of sp.save says
        plain = converted()
        plain.load_state_dict(state)
        sp.save(plain, folder / "gathered.safetensors")
    return found


def _tied(rank: int, world: int, model: nn.Module) -> Any:
    """Two blocks with one layer, and a third block in between; the result and what is a group."""
    model.blocks.insert(1, copy.deepcopy(model.blocks[0]))
    model.blocks[2].mlp[0] = model.blocks[0].mlp[0]
    if world:
        sp.distributed.fully_shard(model)
    train(model, rank, max(world, 1), range(5))
    assert model.blocks[2].mlp[0].factors[0] is model.blocks[0].mlp[0].factors[0]
    return whole(model), [n for n, part in model.named_modules() if isinstance(part, FSDPModule)]


def _from_meta() -> dict[str, Tensor]:
    model = sp.sparsify(dense(device="meta"), INPUTS, budget=0.3)
    sp.distributed.fully_shard(model)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().fill_(math.nan)
    sp.distributed.initialise(model)
    return whole(model)


Findings = tuple[int, list[dict[str, Any]], Path]


@pytest.fixture(scope="module", params=WORLDS)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("job")
    return request.param, run_ranks(_job, request.param, folder), folder


@pytest.fixture(scope="module")
def alone() -> dict[float | None, tuple[list[float], dict[str, Tensor]]]:
    """The training in this process alone, with and without clipping."""
    found = {}
    for clip in (None, CLIP):
        model = converted()
        found[clip] = train(model, clip=clip), whole(model)
    return found


def _assert_equal(one: Any, other: Any, tolerance: float = CLOSE) -> None:
    """The losses and the parameters of two trainings."""
    assert len(one[0]) == len(other[0]) == 20
    assert max(abs(a - b) for a, b in zip(one[0], other[0], strict=True)) <= tolerance
    assert farthest(one[1], other[1]) <= tolerance


def test_every_rank_converts_alike(job: Findings) -> None:
    model = converted()
    for found in job[1]:
        assert found["recipe"] == recipe_json(fabrics(model))
        assert farthest(found["converted"], whole(model)) == 0


def test_ranks_that_differ_are_named(job: Findings) -> None:
    world, ranks, _ = job
    start = "VerificationError: The ranks hold different models. From rank 0 differ: rank 1 in "
    for found in ranks if world > 1 else ():
        assert found["value"].startswith(f"{start}parameters, first at 'stem.2.factors.0'. Build")
        assert found["type"].startswith(f"{start}parameters, first at 'head.bias'.")
        assert found["frozen"].startswith(f"{start}parameters, first at 'head.weight'.")
        recipe = f"{start}the recipe (which fabric stands where), first at"
        assert found["name"].startswith(f"{recipe} 'blocks.1.mlp.0'.")
        assert found["budget"].startswith(f"{recipe} 'stem.2'.")
        assert not found["alone"]  # a group of one


def test_calls_in_the_wrong_order_say_so(job: Findings) -> None:
    world, ranks, _ = job
    for found in ranks if world > 1 else ():
        said = found["misuses"]
        assert said["late check"].endswith(
            "call check_agreement before fully_shard or parallelize_module."
        )
        for twice in ("twice", "after torch's own"):
            assert said[twice].startswith("ConfigError: The model is sharded already: fully_shard")
        assert said["DDP"].startswith(
            "ConfigError: The model is wrapped in DistributedDataParallel"
        )
        assert said["group"].startswith("ConfigError: mesh must be a DeviceMesh")
        assert said["group"].endswith("got ProcessGroup.")


def test_ddp_is_training_in_one_process(job: Findings, alone: Any) -> None:
    for found in job[1]:
        _assert_equal(found["ddp"], alone[None])


def test_fsdp_is_training_in_one_process(job: Findings, alone: Any) -> None:
    """With clipped gradients, which need a norm over all ranks."""
    assert farthest(alone[CLIP][1], alone[None][1]) > 100 * CLOSE
    for found in job[1]:
        _assert_equal(found["fsdp"], alone[CLIP])


def test_mixed_precision(job: Findings, alone: Any) -> None:
    for found in job[1]:
        losses, dtypes = found["half"]
        assert dtypes == {torch.float32, torch.bfloat16}
        assert losses == pytest.approx(alone[None][0][:5], rel=0.02)


def test_every_rank_holds_its_part(job: Findings) -> None:
    world, ranks, _ = job
    for found in ranks:
        assert found["wrapped"] == ["", "stem.2", "blocks.0", "blocks.1"]
        assert found["share"] == pytest.approx(1 / world, rel=0.01)
        factors = {n: share for n, share in found["shares"].items() if ".factors." in n}
        assert set(factors.values()) == {1 / world}
        assert len(factors) == 14


def test_tied_blocks_stay_tied(job: Findings) -> None:
    expected, _ = _tied(0, 0, converted())
    for found in job[1]:
        parameters, wrapped = found["tied"]
        assert wrapped == ["", "stem.2", "blocks.1"]
        assert farthest(parameters, expected) <= CLOSE


def test_a_sharded_model_says_how_it_is_saved(job: Findings, alone: Any) -> None:
    _, ranks, folder = job
    for found in ranks:
        errors = found["errors"]
        for verb in ("save", "save .pt2", "export"):
            assert errors[verb].startswith("ModelError: 'stem.0.weight' is sharded over ranks")
            assert "get_model_state_dict" in errors[verb]
        assert "Convert the model first, on every rank" in errors["convert"]
        for error in found["wrapped errors"].values():
            assert error.startswith("ModelError: The model is wrapped in DistributedDataParallel;")
    loaded = sp.load(folder / "gathered.safetensors", model=dense())
    assert farthest(whole(loaded), alone[CLIP][1]) <= CLOSE


def test_a_start_on_meta_depends_on_no_world(job: Findings) -> None:
    """As in one process; fabrics as converted up to the scale that meta cannot know."""
    lone = sp.sparsify(dense(device="meta"), INPUTS, budget=0.3).to_empty(device="cpu")
    sp.distributed.initialise(lone)
    expected, real = whole(lone), whole(converted())
    for found in job[1]:
        assert farthest(found["meta"], expected) == 0
    for name in real:
        if ".factors." in name and not name.startswith("raw"):
            scale = (real[name] * expected[name]).sum() / real[name].square().sum()
            assert scale.item() == pytest.approx(1, abs=0.02)
            torch.testing.assert_close(expected[name], real[name] * scale)


# --- what else trainers do -----------------------------------------------------------------------


def _variants(rank: int, world: int, folder: Path) -> dict[str, Any]:
    shard = sp.distributed.fully_shard
    found = {}

    model = DistributedDataParallel(converted())
    train_in_parts(model, rank, world, lambda last: nullcontext() if last else model.no_sync())
    found["DDP, accumulated"] = whole(model)

    sharded = shard(converted())
    train_in_parts(sharded, rank, world, partial(_syncing, sharded))
    found["FSDP, accumulated"] = whole(sharded)

    model = converted()
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    train(shard(model), rank, world, range(5))
    found["FSDP, checkpointed activations"] = whole(model)

    model = shard(converted(), reshard_after_forward=False)
    train(model, rank, world, range(5))
    found["FSDP, parameters kept"] = whole(model)

    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copies", "parts"))
    model = shard(converted(), mesh)
    assert all(p.to_local().numel() <= 2 * p.numel() / world for p in model.parameters())
    train(model, rank, world, range(5))
    found["FSDP in two copies"] = whole(model)

    found["FSDP over tensor parallel"], found["both, from meta"] = _two_dimensions(rank, world)

    for name, wrap in {"DDP": DistributedDataParallel, "FSDP": shard}.items():
        model = torch.compile(wrap(converted()), backend="aot_eager")
        train(model, rank, world, range(5))
        found[f"{name}, compiled"] = whole(model)
    return found


def _two_dimensions(rank: int, world: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Blocks divided over two ranks, what these hold sharded over the others."""
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    up = sp.distributed.FabricParallel(output_layouts=Shard(-1))
    down = sp.distributed.FabricParallel(input_layouts=Shard(-1))

    def divided(model: nn.Module) -> nn.Module:
        styles = {"blocks.*.mlp.0": up, "blocks.*.mlp.2": down}
        return sp.distributed.fully_shard(
            parallelize_module(model, mesh["tensor"], styles), mesh["data"]
        )

    model = divided(converted())
    train(model, mesh["data"].get_local_rank(), world // 2, range(5))
    empty = divided(sp.sparsify(dense(device="meta"), INPUTS, budget=0.3)).to_empty(device="cpu")
    sp.distributed.initialise(empty)
    return whole(model), whole(empty)


def _zoo(rank: int, world: int, folder: Path) -> dict[str, Any]:
    """Losses and gradients of transformers' models, whole and sharded, and what is a group."""
    found = {}
    for name in TRANSFORMERS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, inputs = make(name, ZOO)
        model = sp.sparsify(model, inputs, budget=0.5).eval()
        sp.distributed.check_agreement(model)
        results = []
        for sharded in (False, True):
            if sharded:
                sp.distributed.fully_shard(model)
            model.zero_grad()
            with warnings.catch_warnings():  # T5's blocks return views, dense or not
                warnings.filterwarnings("ignore", ".*returned a view tensor")
                loss = first_tensor(call(model, inputs)).float().square().mean()
            loss.backward()
            gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            if sharded:
                gradients = {n: gradient.full_tensor() for n, gradient in gradients.items()}
            results.append((loss.item(), gradients))
        wrapped = [n for n, part in model.named_modules() if isinstance(part, FSDPModule)]
        found[name] = (*results, wrapped)
    return found


@pytest.mark.slow
def test_transformers_are_sharded_by_their_blocks(tmp_path: Path) -> None:
    """Tied embeddings, experts, raw weights and all: losses and gradients as of the whole model."""
    for name, found in run_ranks(_zoo, 2, tmp_path, seconds=300)[0].items():
        (loss, gradients), (sharded_loss, sharded_gradients), wrapped = found
        assert sharded_loss == pytest.approx(loss, rel=1e-5), name
        assert gradients.keys() == sharded_gradients.keys()
        for path, gradient in gradients.items():
            torch.testing.assert_close(sharded_gradients[path], gradient)
        assert len(wrapped) == (5 if name == "T5" else 3), name
        assert all(path.rsplit(".", 1)[-1].isdigit() for path in wrapped[1:])


@contextmanager
def _syncing(model: FSDPModule, last: bool) -> Iterator[None]:
    model.set_requires_gradient_sync(last)
    yield


@pytest.mark.slow
def test_other_ways_to_train(tmp_path: Path) -> None:
    results = run_ranks(_variants, 4, tmp_path)[0]
    lone = sp.sparsify(dense(device="meta"), INPUTS, budget=0.3).to_empty(device="cpu")
    sp.distributed.initialise(lone)
    from_meta = results.pop("both, from meta")
    assert farthest(from_meta, whole(lone)) == 0
    model = converted()
    train(model, steps=range(5))
    for name, found in results.items():
        assert farthest(found, whole(model)) <= CLOSE, name


def _fail(rank: int, world: int, folder: Path, sleeps: bool) -> None:
    if rank == 1:
        time.sleep(600 if sleeps else 0)
        raise ValueError("rank 1 fails")
    dist.barrier()


def test_jobs_that_fail_say_why(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)error-1:.*ValueError: rank 1 fails"):
        run_ranks(_fail, 2, tmp_path, False)
    with pytest.raises(TimeoutError):
        run_ranks(_fail, 2, tmp_path, True, seconds=2)


# --- without processes ---------------------------------------------------------------------------


class _Mesh(DeviceMesh):
    """As much of a mesh as the placement asks for."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    @property
    def ndim(self) -> int:
        return len(self.sizes)

    def size(self, axis: int) -> int:
        return self.sizes[axis]


@pytest.mark.parametrize(
    ("shape", "world", "axis"),
    [
        ((8, 1, 4, 4), 4, 0),
        ((2, 16, 16, 4), 4, 1),
        ((2, 1, 16, 4), 4, 2),
        ((2, 1, 3, 4), 4, 3),
        ((2, 1, 3, 5, 4, 3), 4, 4),
        ((3, 1, 5, 7), 4, 0),
        ((3, 1, 5, 7), 1, 0),
        ((64, 6), 3, 1),
    ],
)
def test_placement(shape: tuple[int, ...], world: int, axis: int) -> None:
    for mesh in (_Mesh(world), _Mesh(2, world)):
        place = sp.distributed.shard_placement(mesh)
        assert place(nn.Parameter(torch.zeros(shape))) == Shard(axis)


def test_meshes_that_fsdp_cannot_take() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    for needy in (sp.distributed.shard_placement, partial(sp.distributed.fully_shard, model)):
        with pytest.raises(sp.ConfigError, match=r"mesh must be a DeviceMesh, .* got int"):
            needy(mesh=2)
        with pytest.raises(sp.ConfigError, match=r'got 3\. Take one or two .* mesh\["data"\]'):
            needy(mesh=_Mesh(1, 1, 1))


def test_without_a_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    sp.distributed.check_agreement(model)
    for needy in (sp.distributed.shard_placement, partial(sp.distributed.fully_shard, model)):
        with pytest.raises(sp.ConfigError, match="Sharding needs ranks: start the script with"):
            needy()
    with pytest.raises(sp.ConfigError, match=r"must be a torch\.nn\.Module; got int"):
        sp.distributed.fully_shard(3)
    with pytest.raises(sp.ConfigError, match=r"must be a torch\.nn\.Module; got NoneType"):
        sp.distributed.check_agreement(None)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun says it
    with pytest.raises(sp.ConfigError, match=r"one of 2 processes .*init_process_group\(\) first"):
        sp.distributed.check_agreement(model)
    assert not dist.is_initialized()


def test_initialise_is_what_sparsify_draws() -> None:
    model = sp.sparsify(dense(device="meta"), INPUTS, budget=0.3)
    with pytest.raises(sp.ConfigError, match=r"call\s+model\.to_empty"):
        sp.distributed.initialise(model)
    with pytest.raises(sp.ConfigError, match=r"must be a torch\.nn\.Module; got NoneType"):
        sp.distributed.initialise(None)
    model = model.to_empty(device="cpu")
    with pytest.raises(sp.ConfigError, match=r"seed must be a whole number; got 1\.5"):
        sp.distributed.initialise(model, seed=1.5)
    sp.distributed.initialise(model, seed=3)
    layers = {n: part for n, part in model.named_modules() if isinstance(part, FabricLayer)}
    for name, layer in layers.items():
        filled = whole(layer)
        layer.reset_parameters(generator(3, name))
        assert farthest(filled, whole(layer)) == 0


class _Tokens(nn.Module):
    """Layers that PyTorch fills, and tensors that only their owner could."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(2))
        self.register_buffer("angles", torch.ones(2))
        self.norm = nn.BatchNorm1d(64)
        self.body = nn.Linear(64, 64)
        self.rnn = nn.GRU(64, 8)
        self.head = nn.Linear(64, 10)


def test_layers_that_stayed_dense_start_as_pytorch_starts_them() -> None:
    with torch.device("meta"):
        model = _Tokens()
    model = sp.sparsify(model, include=["body"], budget=0.3).to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(9)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"not filled: 2, 'token', 'angles'\. Fill them by"):
        sp.distributed.initialise(model, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.token == 9).all()
    assert (model.angles == 9).all()
    with torch.random.fork_rng(devices=[]):
        for name, make in {
            "head": partial(nn.Linear, 64, 10),
            "rnn": partial(nn.GRU, 64, 8),
            "norm": partial(nn.BatchNorm1d, 64),
        }.items():
            torch.set_rng_state(generator(5, name).get_state())
            for key, value in make().state_dict().items():
                assert torch.equal(model.state_dict()[f"{name}.{key}"], value), key


def test_clipping_in_one_process_is_torchs() -> None:
    model = converted()
    train(model, steps=range(1))
    twin = copy.deepcopy(model)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.grad = one.grad.clone()
    model.head.bias.grad = twin.head.bias.grad = None
    norm = sp.distributed.clip_grad_norm_(model.parameters(), CLIP)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(twin.parameters(), CLIP))
    assert norm > CLIP
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert one is model.head.bias or torch.equal(one.grad, other.grad)
    assert sp.distributed.clip_grad_norm_(model.raw.factors[0], math.inf) < CLIP
    assert sp.distributed.clip_grad_norm_([], 1) == 0


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, None, "1", True])
def test_a_norm_to_clip_at_is_positive(wrong: Any) -> None:
    with pytest.raises(sp.ConfigError, match="max_norm must be a number above 0, such as 1"):
        sp.distributed.clip_grad_norm_([], wrong)


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), nn.ModuleList([nn.ReLU()]), {"w": 1}, None])
def test_what_is_clipped_are_tensors(wrong: Any) -> None:
    with pytest.raises(sp.ConfigError, match=r"must be tensors, as model\.parameters\(\) gives"):
        sp.distributed.clip_grad_norm_(wrong, 1.0)
