"""Converting folders layer by layer: the bytes of the way in memory, and memory for one layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sparsify as sp
from sparsify.cli import main
from sparsify.frontend.source import Request, open_source
from sparsify.frontend.stream import stream
from sparsify.io.shards import INDEX, map_checkpoint
from sparsify.passes import Initialise
from tests.support import factories, zoo
from tests.support.folders import MODELS, saved, write_llama
from tests.support.zoo import ZOO

transformers: Any = pytest.importorskip("transformers")
BUDGET = "0.3"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def convert(*arguments: object, code: int = 0) -> None:
    assert main(["convert", *map(str, arguments), "--budget", BUDGET, "-q"]) == code


# --- the same bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shard"), [*((name, "60KB") for name in MODELS), ("T5", "50GB")])
def test_streaming_gives_the_bytes_of_the_way_in_memory(name: str, shard: str) -> None:
    dense = saved(transformers, Path("dense"), name, torch.bfloat16, shard)
    assert (Path("dense") / INDEX).exists() == (shard != "50GB")
    Path("plan.json").write_text(sp.plan(dense, dense.dummy_inputs, budget=0.3).to_json())
    assert main(["convert", "dense", "-o", "out", "--plan", "plan.json", "--seed", "7"]) == 0
    plan = sp.Plan.from_json(Path("plan.json").read_text())
    sp.save(sp.sparsify(dense, dense.dummy_inputs, plan=plan, seed=7), "memory")
    for path in sorted(Path("memory").iterdir()):
        assert path.read_bytes() == (Path("out") / path.name).read_bytes(), path.name
    assert (
        main(["convert", "dense", "-o", "o.safetensors", "--plan", "plan.json", "--seed", "7"]) == 0
    )
    assert Path("o.safetensors").read_bytes() == Path("out/sparsify.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_streaming_every_model_of_the_zoo(name: str) -> None:
    made = zoo.make(name, ZOO)[0]
    if not hasattr(made, "save_pretrained"):
        pytest.skip("no model of transformers")
    made.save_pretrained("dense", max_shard_size="200KB")
    dense = type(made).from_pretrained("dense").eval()
    inputs = open_source(Request("dense")).example_inputs
    plan = sp.plan(dense, inputs, budget=0.3)
    Path("plan.json").write_text(plan.to_json())
    assert main(["convert", "dense", "-o", "out", "--plan", "plan.json"]) == 0
    sp.save(sp.sparsify(dense, inputs, plan=plan), "memory")
    for path in sorted(Path("memory").iterdir()):
        assert path.read_bytes() == (Path("out") / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("name", "init"), [("Llama", "variance"), ("GPT-2", "project"), ("Mixtral", "project")]
)
def test_every_init_is_the_same(name: str, init: str) -> None:
    dense = saved(transformers, Path("dense"), name, shard="60KB")
    convert("dense", "-o", "out", "--init", init)
    plan = sp.plan(dense, dense.dummy_inputs, budget=0.3, init=init)
    sparse = sp.sparsify(dense, dense.dummy_inputs, plan=plan, init=init)
    sp.save(sparse, "memory")
    weights = "sparsify.safetensors"
    assert Path("out", weights).read_bytes() == Path("memory", weights).read_bytes()


def test_calibration_is_the_same() -> None:
    """The converted model has to run for it, so that it is in memory."""
    dense = saved(transformers, Path("dense"), "Llama", shard="60KB")
    ids = torch.randint(96, (16, 24), generator=torch.Generator().manual_seed(0))
    save_file({"input_ids": ids}, "batch.safetensors")
    convert("dense", "-o", "out", "--init", "project", "--calibration", "batch.safetensors")
    sparse = sp.sparsify(
        dense,
        dense.dummy_inputs,
        budget=0.3,
        init="project",
        calibration=[{"input_ids": ids}],
    )
    sp.save(sparse, "memory")
    weights = "sparsify.safetensors"
    assert Path("out", weights).read_bytes() == Path("memory", weights).read_bytes()


def test_weights_that_are_no_numbers_are_not_projected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = saved(transformers, Path("dense"), "Llama")
    state = load_file("dense/model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(state, "dense/model.safetensors", {"format": "pt"})
    capsys.readouterr()
    convert("dense", "-o", "out", "--init", "project", code=4)
    assert "'model.layers.1.mlp.up_proj' has NaN or infinity" in capsys.readouterr().err
    Path("plan.json").write_text(sp.plan(model, model.dummy_inputs, budget=0.3).to_json())
    plan = ("--plan", "plan.json", "-q")
    assert main(["convert", "dense", "-o", "out", "--init", "project", *plan]) == 4
    assert "'model.layers.1.mlp.up_proj' has NaN or infinity" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "plan.json"}


def test_a_plan_of_a_folder_whose_tensors_would_be_merged_reads_none() -> None:
    saved(transformers, Path("dense"), "Mixtral")
    dry = open_source(Request("dense", is_dry=True)).model
    assert all(parameter.is_meta for parameter in dry.parameters())
    assert main(["plan", "dense", "--budget", BUDGET]) == 0
    assert main(["plan", "dense", "--budget", BUDGET, "--init", "project"]) == 0


def test_a_model_that_is_one_layer() -> None:
    dense = torch.nn.Linear(16, 16)
    plan = sp.plan(dense, budget=0.5, include=[""])
    sparse, values = stream(dense, None, plan, Initialise())
    names = sorted(name for name, _ in sparse.named_parameters())
    assert names == ["bias", "factors.0", "factors.1"]
    state = sp.sparsify(dense, plan=plan).state_dict()
    assert all(torch.equal(values(name), state[name]) for name in names)


def test_the_dense_files_stay_as_they_were() -> None:
    saved(transformers, Path("dense"), "GPT-2", shard="60KB")
    before = {path.name: path.read_bytes() for path in Path("dense").iterdir()}
    convert("dense", "-o", "out")
    assert {path.name: path.read_bytes() for path in Path("dense").iterdir()} == before


def test_mapped_tensors_can_be_written_to_and_the_file_stays() -> None:
    saved(transformers, Path("dense"), "BERT")
    before = Path("dense/model.safetensors").read_bytes()
    model: Any = open_source(Request("dense")).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    assert Path("dense/model.safetensors").read_bytes() == before


def test_a_failing_layer_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved(transformers, Path("dense"), "Llama")
    calls: list[str] = []
    fill = Initialise.fill

    def failing(self: Initialise, name: str, *rest: Any) -> None:
        calls.append(name)
        if len(calls) == 3:
            raise sp.ModelError("the third layer fails")
        fill(self, name, *rest)

    monkeypatch.setattr(Initialise, "fill", failing)
    convert("dense", "-o", "out", code=4)
    assert {path.name for path in tmp_path.iterdir()} == {"dense"}
    assert len(set(calls)) == 3


# --- memory -------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
import torch, transformers
from transformers import LlamaForCausalLM
from sparsify.cli import main

def most():
    try:  # what the system tells of a process counts its parent's memory too, before it began
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 * (sys.platform == "linux")

print(most(), file=sys.stderr)
code = main(sys.argv[1:])
print(most(), file=sys.stderr)
sys.exit(code)
"""
SEVEN_B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
TWO_GB = {
    "vocab_size": 48000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 5,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 512,
}


def measured(*arguments: str) -> tuple[int, int]:
    """The most bytes that a process had in memory: after a command, and before it."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    before, most = (int(line) for line in process.stderr.splitlines() if line.isdigit())
    return most, before


HOLES = [
    pytest.param(TWO_GB, torch.float32, 2e9, id="2 GB"),
    pytest.param(SEVEN_B, torch.bfloat16, 13e9, id="7B", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("sizes", "dtype", "least"), HOLES)
def test_a_plan_reads_no_weight_however_many_there_are(
    sizes: dict[str, int], dtype: torch.dtype, least: float
) -> None:
    """The shards are holes: bytes that are on no disk, and must come into no memory."""
    folder = Path("dense")
    size = write_llama(transformers, folder, sizes, shard=5 << 30, dtype=dtype, holes=True)
    assert size > least
    if sum(path.stat().st_blocks for path in folder.iterdir()) > 1 << 20:
        pytest.skip("this file system has no holes")
    arguments = ("--topology", "monarch", "-o", "plan.json", "-q")
    most, before = measured("plan", "dense", *arguments)
    assert most - before < 300 << 20
    plan = sp.Plan.from_json(Path("plan.json").read_text())
    assert len(plan.replaced) == 7 * sizes["num_hidden_layers"]
    assert plan.density <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("init", ["orthogonal", "project"])
def test_a_conversion_holds_one_layer_at_a_time(init: str) -> None:
    shard = 500_000_000
    size = write_llama(transformers, Path("dense"), TWO_GB, shard=shard)
    assert size > 2e9
    assert main(["plan", "dense", "-o", "plan.json", "--topology", "monarch", "-q"]) == 0
    options = ("--init", init, "--plan", "plan.json", "-q")
    most, before = measured("convert", "dense", "-o", "out", *options)
    print(f"{init}: {size / 1e9:.2f} GB, {most / 1e6:.0f} MB at most, {before / 1e6:.0f} before")
    assert most < 2**31 + shard
    assert most - before < 2**30 + shard
    kept = 2 * 4 * TWO_GB["vocab_size"] * TWO_GB["hidden_size"]
    assert kept < Path("out/sparsify.safetensors").stat().st_size < kept + (size - kept) / 8


# --- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "index", "folder", "folder without an index"])
def test_a_checkpoint_has_many_forms(kind: str) -> None:
    tensors = {f"layer.{n}.weight": torch.full((n + 1, 2), float(n)) for n in range(6)}
    tensors["flag"] = torch.tensor([True, False])
    tensors["none"] = torch.zeros(0, 3)
    path = _checkpoint(tensors, kind)
    found = map_checkpoint(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_header_that_is_not_aligned_is_read_too() -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (1 - len(header) % 4)
    data = torch.tensor([1.0, -2.0, 3.0])
    raw = len(header).to_bytes(8, "little") + header + data.numpy().tobytes()
    Path("m.safetensors").write_bytes(raw)
    assert (8 + len(header)) % 4
    assert torch.equal(map_checkpoint(Path("m.safetensors"))["w"], data)


def test_weights_in_shards_for_a_factory() -> None:
    state = {
        name: torch.randn_like(tensor) for name, tensor in factories.mlp()[0].state_dict().items()
    }
    save_file(state, "one.safetensors")
    arguments = ("tests.support.factories:mlp", "-o")
    convert(*arguments, "one.s.safetensors", "--weights", "one.safetensors")
    for number, kind in enumerate(("index", "folder", "folder without an index")):
        path = _checkpoint(state, kind, str(number))
        convert(*arguments, f"{number}.safetensors", "--weights", path)
        assert Path(f"{number}.safetensors").read_bytes() == Path("one.s.safetensors").read_bytes()


def _checkpoint(tensors: dict[str, Tensor], kind: str, name: str = "ckpt") -> Path:
    """The tensors in one file, or in three shards."""
    if kind == "file":
        save_file(tensors, f"{name}.safetensors")
        return Path(f"{name}.safetensors")
    folder = Path(name)
    folder.mkdir()
    index = {}
    for part in range(3):
        shard = f"model-{part + 1:05}-of-00003.safetensors"
        chosen = dict(sorted(tensors.items())[part::3])
        save_file(chosen, folder / shard)
        index.update(dict.fromkeys(chosen, shard))
    if kind != "folder without an index":
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder / INDEX if kind == "index" else folder


# --- bad checkpoints: the message, the exit code; nothing written -------------------------------


def _shard(number: int) -> Path:
    return sorted(Path("dense").glob("*.safetensors"))[number]


def _change(change: Callable[[dict[str, Tensor]], object]) -> Callable[[], None]:
    def damage() -> None:
        tensors = load_file(_shard(1))
        change(tensors)
        save_file(tensors, _shard(1))

    return damage


def _first(tensors: dict[str, Tensor]) -> str:
    return min(name for name in tensors if tensors[name].dim() == 2)


def _retyped(tensors: dict[str, Tensor]) -> None:
    tensors.update({name: tensor.to(torch.float64) for name, tensor in tensors.items()})


def _cut() -> None:
    whole = _shard(1).read_bytes()
    _shard(1).write_bytes(whole[: len(whole) // 2])


def _index(change: Callable[[dict[str, str]], object]) -> Callable[[], None]:
    def damage() -> None:
        path = Path("dense") / INDEX
        data = json.loads(path.read_text())
        change(data["weight_map"])
        path.write_text(json.dumps(data))

    return damage


def _doubled() -> None:
    (Path("dense") / INDEX).unlink()
    _shard(1).with_name("older.safetensors").write_bytes(_shard(1).read_bytes())


def _unnumbered() -> None:
    (Path("dense") / INDEX).unlink()
    _shard(1).unlink()


SHARDS: dict[str, tuple[Callable[[], object], str]] = {
    "a shard is missing": (lambda: _shard(1).unlink(), "shards that dense/model.safetensors.index"),
    "a shard is missing, and the index": (_unnumbered, "shards, and no model.safetensors.index"),
    "a shard is truncated": (_cut, "truncated"),
    "a shard is text": (lambda: _shard(1).write_text("text" * 9), "no safetensors file"),
    "a shard is a pickle": (
        lambda: torch.save({"a": torch.ones(1)}, _shard(1)),
        "is a pickle, and loading one can run any code",
    ),
    "a tensor is missing": (
        _change(lambda tensors: tensors.pop(_first(tensors))),
        "The files are of different checkpoints",
    ),
    "a tensor is in two shards": (_doubled, "is in two shards of dense"),
    "a shape is wrong": (
        _change(lambda tensors: tensors.update({_first(tensors): torch.ones(3, 3)})),
        "cannot be read as a model",
    ),
    "mixed types": (_change(_retyped), "mix the types float32, float64"),
    "index is damaged": (lambda: (Path("dense") / INDEX).write_text("{"), "is no index of shards"),
    "index of nothing": (lambda: (Path("dense") / INDEX).write_text("{}"), "lacks a 'weight_map'"),
    "index goes outside": (
        _index(lambda places: places.update({"lm_head.weight": "../secret.safetensors"})),
        "outside of its own folder",
    ),
    "index names what is nowhere": (
        _index(lambda places: places.update({"extra": next(iter(places.values()))})),
        "it is in none",
    ),
}


@pytest.mark.parametrize("verb", ["convert", "plan"])
@pytest.mark.parametrize("case", SHARDS)
def test_bad_shards(
    case: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(transformers, Path("dense"), "Llama", shard="60KB")
    damage, message = SHARDS[case]
    damage()
    capsys.readouterr()
    assert main([verb, "dense", *(["-o", "out"] if verb == "convert" else [])]) == 4
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"dense"}


def _state() -> dict[str, Tensor]:
    return dict(factories.mlp()[0].state_dict())


def _without_a_tensor() -> Path:
    return _checkpoint({k: v for k, v in _state().items() if k != "2.weight"}, "folder")


def _with_an_extra() -> Path:
    return _checkpoint(_state() | {"2.wieght": torch.ones(1)}, "folder")


def _with_a_wrong_shape() -> Path:
    return _checkpoint(_state() | {"2.weight": torch.ones(2, 2)}, "folder")


def _with_two_types() -> Path:
    return _checkpoint(_state() | {"2.weight": _state()["2.weight"].half()}, "folder")


def _with_integers() -> Path:
    return _checkpoint(_state() | {"2.weight": _state()["2.weight"].to(torch.int8)}, "folder")


def _without_a_shard() -> Path:
    path = _checkpoint(_state(), "folder")
    next(iter(path.glob("*.safetensors"))).unlink()
    return path


def _empty() -> Path:
    Path("empty").mkdir()
    return Path("empty")


WEIGHTS: dict[str, tuple[Callable[[], Path], int, str]] = {
    "a shard is missing": (_without_a_shard, 4, "1 of the 3 shards"),
    "a tensor is missing": (_without_a_tensor, 4, "The weights have no '2.weight'"),
    "an unexpected tensor": (
        _with_an_extra,
        4,
        "The weights have '2.wieght', which the model lacks",
    ),
    "a wrong shape": (_with_a_wrong_shape, 4, "has the shape (2, 2) in the weights"),
    "two types": (_with_two_types, 4, "mix the types"),
    "integers for numbers": (_with_integers, 4, "torch.int8 in the weights"),
    "a folder without weights": (_empty, 6, "holds no weights"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_bad_weights_for_a_factory(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_weights, code, message = WEIGHTS[case]
    path = make_weights()
    before = {path.name for path in tmp_path.iterdir()}
    convert("tests.support.factories:mlp", "--weights", path, "-o", "out.safetensors", code=code)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == before
