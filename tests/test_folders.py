"""Model folders of transformers, dense in and sparse out: bit-equal, whole, and never mistaken."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsify as sp
from sparsify.cli import main
from sparsify.io.recipe import fabrics, slots
from tests.support.folders import MODELS, make, saved
from tests.support.purity import untouched

transformers: Any = pytest.importorskip("transformers")
BUDGET = 0.3


def everything(model: nn.Module) -> dict[str, Tensor]:
    return {slot.name: slot.tensor.detach() for slot in slots(model)}


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    left, right = everything(one), everything(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name
    assert fabrics(one) == fabrics(other)


@cache
def _sparse(name: str, dtype: torch.dtype) -> Any:
    model = make(transformers, name, dtype)
    return sp.sparsify(model, model.dummy_inputs, budget=BUDGET)


def sparse(name: str, dtype: torch.dtype = torch.float32) -> Any:
    return copy.deepcopy(_sparse(name, dtype))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- the round trip -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_from_its_folder_alone(name: str) -> None:
    model = sparse(name)
    with untouched(model):
        sp.save(model, "out")
    with untouched(model):
        loaded = sp.load("out")
    assert type(loaded) is type(model)
    assert not loaded.training
    assert len(fabrics(loaded)) > 3
    assert_equal(model, loaded)
    with torch.no_grad():
        one, other = (m(**m.dummy_inputs)[0] for m in (model.eval(), loaded))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "T5", "Mixtral"])
def test_it_generates_as_before(name: str) -> None:
    model = sparse(name).eval()
    model.generation_config.max_new_tokens = 5
    sp.save(model, "out")
    loaded = sp.load("out")
    assert loaded.generation_config.max_new_tokens == 5
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded.generate(ids, do_sample=False), model.generate(ids, do_sample=False))
    assert loaded.generate(ids, do_sample=False).shape[1] > 3 - 3 * (name == "T5")


@pytest.mark.parametrize("name", ["BERT", "Mixtral"])
def test_half_precision_stays(name: str) -> None:
    model = sparse(name, torch.bfloat16)
    sp.save(model, "out")
    loaded = sp.load("out")
    assert loaded.dtype == torch.bfloat16
    assert_equal(model, loaded)
    assert json.loads(Path("out/config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["BERT", "GPT-2", "T5"])
def test_ties_stay(name: str) -> None:
    sp.save(sparse(name), "out")
    loaded = sp.load("out")
    head = loaded.get_output_embeddings()
    assert head.weight is loaded.get_input_embeddings().weight
    with torch.no_grad():
        head.weight.zero_()
    assert not loaded.get_input_embeddings().weight.any()


def test_a_skeleton_may_be_given_and_a_device() -> None:
    model = sparse("BERT")
    sp.save(model, "out")
    skeleton = make(transformers, "BERT").train()
    loaded = sp.load("out", skeleton)
    assert loaded.training
    assert_equal(model, loaded)
    assert_equal(model, sp.load("out", device="cpu"))
    assert_equal(model, sp.load("out/sparsify.safetensors", model=skeleton))


def test_it_trains_on_after_loading() -> None:
    sp.save(sparse("Llama"), "out")
    loaded = sp.load("out").train()
    optimizer = torch.optim.AdamW(loaded.parameters(), lr=1e-2)
    ids = torch.arange(16).reshape(2, 8)
    losses = []
    for _ in range(4):
        loss = loaded(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    sp.save(loaded, "out")
    assert_equal(loaded, sp.load("out"))


def test_equal_models_give_equal_folders() -> None:
    sp.save(sparse("Llama"), "one")
    sp.save(sp.load("one"), "two")
    names = sorted(path.name for path in Path("one").iterdir())
    assert names == ["config.json", "generation_config.json", "sparsify.safetensors"]
    for name in names:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


# --- nobody takes it for what it is not ---------------------------------------------------------


@pytest.mark.parametrize("reader", ["LlamaForCausalLM", "LlamaModel", "AutoModelForCausalLM"])
def test_plain_transformers_refuses_the_folder(reader: str) -> None:
    """Under the usual name of the file it would make a dense model with random weights."""
    sp.save(sparse("Llama"), "out")
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        getattr(transformers, reader).from_pretrained("out")
    shutil.move("out/sparsify.safetensors", "out/model.safetensors")
    dense = getattr(transformers, reader).from_pretrained("out")
    assert not fabrics(dense)
    assert len(fabrics(sp.load("out"))) > 3


def test_a_sparse_folder_is_not_converted_again(capsys: pytest.CaptureFixture[str]) -> None:
    sp.save(sparse("BERT"), "out")
    assert main(["convert", "out", "-o", "again"]) == 3
    assert "is converted already: 13 of its layers are fabrics" in capsys.readouterr().err
    assert not Path("again").exists()


def test_the_dense_folder_is_never_written_over() -> None:
    saved(transformers, Path("dense"), "BERT")
    before = {path.name: path.read_bytes() for path in Path("dense").iterdir()}
    with pytest.raises(sp.FileError, match="weights of another model"):
        sp.save(sparse("BERT"), "dense")
    assert {path.name: path.read_bytes() for path in Path("dense").iterdir()} == before


# --- what belongs to a folder -------------------------------------------------------------------


def test_the_tokenizer_comes_along_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(transformers, Path("dense"), "GPT-2", shard="50KB")
    model.generation_config.max_new_tokens = 7
    model.generation_config.save_pretrained("dense")
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "notes.md", "pytorch_model.bin"):
        Path("dense", name).write_text("{}")
    assert main(["convert", "dense", "-o", "out", "--budget", str(BUDGET)]) == 0
    capsys.readouterr()
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "merges.txt",
        "sparsify.safetensors",
        "tokenizer.json",
        "vocab.json",
    ]
    assert sp.load("out").generation_config.max_new_tokens == 7
    assert "_name_or_path" not in json.loads(Path("out/config.json").read_text())


def test_a_folder_with_other_files_keeps_them() -> None:
    Path("out").mkdir()
    Path("out/notes.md").write_text("mine")
    sp.save(sparse("BERT"), "out")
    assert Path("out/notes.md").read_text() == "mine"
    assert len(fabrics(sp.load("out"))) == 13


@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_save_leaves_all_as_it_was(
    existed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sparse("BERT")
    if existed:
        sp.save(model, "out")
    before = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsify.io.model.write_tensors", full)
    with pytest.raises(sp.FileError, match="No space left"):
        sp.save(sparse("BERT"), "out")
    after = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert {path.name for path in tmp_path.iterdir()} == ({"out"} if existed else set())


# --- bad input ----------------------------------------------------------------------------------


class Own(nn.Module):
    """A class that transformers does not have, with a config that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.config = transformers.BertConfig()


def _without(name: str) -> Callable[[], Any]:
    def load() -> Any:
        sp.save(sparse("BERT"), "out")
        Path("out", name).unlink()
        return sp.load("out")

    return load


def _cut() -> Any:
    sp.save(sparse("BERT"), "out")
    whole = Path("out/sparsify.safetensors").read_bytes()
    Path("out/sparsify.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return sp.load("out")


def _config(**changes: Any) -> Callable[[], Any]:
    def load() -> Any:
        sp.save(sparse("BERT"), "out")
        path = Path("out/config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return sp.load("out")

    return load


def _dense() -> Any:
    saved(transformers, Path("dense"), "BERT")
    return sp.load("dense")


def _onto_a_file() -> None:
    Path("out").write_text("")
    sp.save(sparse("BERT"), "out")


def _onto_a_full_folder() -> None:
    Path("out").mkdir()
    Path("out/mine").write_text("")
    sp.save(sparse("BERT"), "out", overwrite=False)


BAD: dict[str, tuple[Callable[[], Any], type[sp.SparsifyError], str]] = {
    "model of no library": (
        lambda: sp.save(nn.Linear(2, 2), "out/"),
        sp.ModelError,
        "without a config",
    ),
    "model of a class of one's own": (
        lambda: sp.save(Own(), "out"),
        sp.ModelError,
        "not: it could",
    ),
    "ending nobody knows": (
        lambda: sp.save(nn.Linear(2, 2), "m.zip"),
        sp.ConfigError,
        "must end in .safetensors",
    ),
    "ending nobody knows to load": (
        lambda: sp.load("m.zip"),
        sp.ConfigError,
        "must end in .safetensors",
    ),
    "pickle to load": (lambda: sp.load("m.bin"), sp.ModelError, "is a pickle by its ending"),
    "file without its skeleton": (
        lambda: (Path("m.safetensors").write_text(""), sp.load("m.safetensors")),
        sp.ConfigError,
        "give model=",
    ),
    "folder that is not there": (
        lambda: sp.load("nowhere"),
        sp.FileError,
        "no such file or folder",
    ),
    "folder of a dense model": (_dense, sp.ModelError, "holds no sparse model"),
    "folder without config": (_without("config.json"), sp.ModelError, "has no config.json"),
    "folder without weights": (_without("sparsify.safetensors"), sp.ModelError, "no sparse model"),
    "weights are damaged": (_cut, sp.ModelError, "does not match its sha256"),
    "config of another size": (_config(hidden_size=128), sp.ModelError, "does not fit the file"),
    "config of another class": (_config(architectures=["BertModel"]), sp.ModelError, "no module"),
    "config of no class": (_config(architectures=["Bert"]), sp.ModelError, "has no class 'Bert'"),
    "output is a file": (_onto_a_file, sp.FileError, "is a file; give the path of a folder"),
    "output is not empty": (_onto_a_full_folder, sp.FileError, "is not empty"),
    "parent is missing": (
        lambda: sp.save(sparse("BERT"), "no/where"),
        sp.FileError,
        "No such file or directory",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, tmp_path: Path) -> None:
    call, kind, message = BAD[case]
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value)
    assert type(error.value) is kind
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
