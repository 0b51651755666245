"""Saving and loading: bit-equal, tied, complete, atomic; and damage is always noticed."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import sparsify as sp
from sparsify.io import load, save
from sparsify.io.recipe import slots
from tests.support.purity import untouched

SHUFFLED = '{"in":8,"out":8,"branches":[[[2,4,4,1],{"size":8,"seed":7},[2,4,4,1]]]}'


class Net(nn.Module):
    """One of everything that a file must carry: ties, shared modules, buffers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.first = nn.Linear(8, 8)
        self.again = self.first
        self.conv1 = nn.Conv1d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, groups=2, bias=False)
        self.conv3 = nn.Conv3d(8, 8, (1, 2, 2))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("angles", torch.arange(4.0), persistent=False)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("scalar", torch.tensor(3.5))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.first.bias.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.again(self.first(self.embed(ids)))
        return self.head(self.norm(self.conv1(x.transpose(1, 2))).transpose(1, 2))


FABRICS = {
    "first": sp.Fabric.from_json(SHUFFLED),
    "conv1": sp.fabric("monarch", 8, 8, blocks=2),
    "conv2": sp.fabric("block_diagonal", 4, 4, blocks=2).repeat(2),
    "conv3": sp.fabric("low_rank", 8, 8, rank=2),
}


def sparse_net(dtype: torch.dtype = torch.float32) -> Net:
    """A Net whose layers are fabrics, with random weights."""
    torch.manual_seed(0)
    net = Net().to(dtype)
    for name, fabric in FABRICS.items():
        layer = sp.nn.replacement(getattr(net, name), fabric)
        layer.reset_parameters(torch.Generator().manual_seed(1))
        setattr(net, name, layer)
    net.again = net.first
    return net


def dense_net(dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(1)
    return Net().to(dtype)


def everything(model: nn.Module) -> dict[str, Tensor]:
    return {slot.name: slot.tensor.detach() for slot in slots(model)}


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    left, right = everything(one), everything(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save(sparse_net(), path)
    return path


# --- the round trip -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_round_trip_is_bit_equal(tmp_path: Path, dtype: torch.dtype) -> None:
    path, sparse, skeleton = tmp_path / "net.safetensors", sparse_net(dtype), dense_net()
    save(sparse, path)
    loaded = load(path, skeleton)
    assert_equal(sparse, loaded)
    assert type(loaded) is Net
    assert loaded.first.fabric == sparse.first.fabric


def test_ties_and_shared_modules_come_back(saved: Path) -> None:
    loaded: Any = load(saved, dense_net())
    assert loaded.head.weight is loaded.embed.weight
    assert loaded.again is loaded.first
    metadata = safe_open(saved, "numpy").metadata()
    assert json.loads(metadata["aliases"])["head.weight"] == "embed.weight"


def test_a_meta_skeleton_comes_back_complete(saved: Path) -> None:
    with torch.device("meta"):
        skeleton = Net()
    loaded: Any = load(saved, skeleton)
    assert_equal(sparse_net(), loaded)
    assert loaded.head.weight is loaded.embed.weight
    assert skeleton.angles.is_meta
    ids = torch.zeros(2, 5, dtype=torch.int64)
    assert torch.equal(loaded.eval()(ids), sparse_net().eval()(ids))


def test_ties_that_the_skeleton_lacks_come_back(saved: Path) -> None:
    skeleton = dense_net()
    skeleton.head.weight = nn.Parameter(skeleton.head.weight.detach().clone())
    loaded: Any = load(saved, skeleton)
    assert loaded.head.weight is loaded.embed.weight


def test_a_sparse_skeleton_serves_too(saved: Path) -> None:
    skeleton = sparse_net()
    with torch.no_grad():
        skeleton.first.factors[0].zero_()
    loaded = load(saved, skeleton)
    assert_equal(sparse_net(), loaded)
    assert not skeleton.first.factors[0].any()


def test_what_belongs_to_the_skeleton_is_kept(saved: Path) -> None:
    skeleton = dense_net().eval()
    fired = []
    skeleton.first.register_forward_hook(lambda *_: fired.append(1))
    loaded: Any = load(saved, skeleton)
    assert not loaded.training
    assert not loaded.first.bias.requires_grad
    assert loaded.first.factors[0].requires_grad
    loaded(torch.zeros(1, 3, dtype=torch.int64))
    assert len(fired) == 2


def test_the_model_itself_can_be_the_layer(tmp_path: Path) -> None:
    layer = sp.nn.FabricLinear(FABRICS["first"])
    save(layer, tmp_path / "layer.safetensors")
    assert_equal(layer, load(tmp_path / "layer.safetensors", nn.Linear(8, 8)))


def test_a_model_without_fabrics_is_fine(tmp_path: Path) -> None:
    net = dense_net()
    save(net, tmp_path / "net.safetensors")
    assert_equal(net, load(tmp_path / "net.safetensors", Net()))


def test_strided_tensors_and_views(tmp_path: Path) -> None:
    model = nn.Linear(6, 4)
    model.weight = nn.Parameter(torch.arange(24.0).reshape(6, 4).T)
    save(model, tmp_path / "m.safetensors")
    assert_equal(model, load(tmp_path / "m.safetensors", nn.Linear(6, 4)))


def test_equal_models_give_equal_bytes(tmp_path: Path, saved: Path) -> None:
    again = load(saved, dense_net())
    save(copy.deepcopy(again), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_other_tools_read_the_weights(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        assert torch.equal(file.get_tensor("first.factors.0"), sparse_net().first.factors[0])
        assert file.metadata()["format"] == "sparsify"


def test_a_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    from sparsify.io.tensors import read_header, write_tensors

    file, tensors = tmp_path / "m.safetensors", {"x": torch.zeros(2)}
    begun = set()
    for length in range(
        560, 1600
    ):  # of the metadata: headers of 896 and 1,152 bytes are among them
        write_tensors(file, tensors, {"note": "n" * length})
        first = file.read_bytes()[:2]
        if first in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            begun.add(first)
            assert [entry.name for entry in read_header(file).entries] == ["x"]
    assert len(begun) >= 3


def test_saving_onto_the_loaded_file(saved: Path) -> None:
    loaded = load(saved, dense_net())
    save(loaded, saved)
    assert_equal(sparse_net(), load(saved, dense_net()))


def test_nothing_else_changes(saved: Path, tmp_path: Path) -> None:
    model, skeleton = sparse_net(), dense_net()
    with untouched(model):
        save(model, tmp_path / "other.safetensors")
    with untouched(skeleton):
        load(saved, skeleton)


def test_dense_weights_of_the_skeleton_are_not_copied(saved: Path) -> None:
    class Uncopied(nn.Parameter):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise AssertionError("a dense weight was copied")

    skeleton = dense_net()
    for layer in (skeleton.first, skeleton.conv1, skeleton.norm):
        layer.weight = Uncopied(layer.weight.detach())
    load(saved, skeleton)


# --- files that do not fit ----------------------------------------------------------------------


def without(name: str) -> Callable[[Net], None]:
    return lambda net: delattr(net, name)


MISFITS: dict[str, tuple[Callable[[Net], Any], str]] = {
    "a path is missing": (
        lambda net: net._modules.update(fisrt=net._modules.pop("first")),
        r"no module 'first'.*Did you mean 'fisrt'",
    ),
    "other sizes": (lambda net: setattr(net, "conv1", nn.Conv1d(8, 9, 3)), "'conv1'.*8 -> 9"),
    "another class": (lambda net: setattr(net, "conv1", nn.ReLU()), "'conv1'.*ReLU"),
    "a tensor too many": (lambda net: setattr(net, "more", nn.Linear(2, 2)), r"no 'more\."),
    "a tensor too few": (without("norm"), r"has 'norm\."),
    "another shape": (lambda net: setattr(net, "norm", nn.BatchNorm1d(9)), "shape"),
    "another fabric": (
        lambda net: setattr(net, "first", sp.nn.FabricLinear(sp.fabric("low_rank", 8, 8, rank=1))),
        "'first' is .* in the file",
    ),
    "a fabric too many": (
        lambda net: setattr(net, "more", sp.nn.FabricLinear(FABRICS["first"])),
        "fabric at 'more'",
    ),
    "a tie too many": (
        lambda net: setattr(net.norm, "bias", net.norm.weight),
        "tied in the skeleton",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_named(saved: Path, case: str) -> None:
    change, message = MISFITS[case]
    skeleton = dense_net()
    change(skeleton)
    with pytest.raises(sp.ModelError, match=message):
        load(saved, skeleton)


def test_tensors_outside_the_state_on_meta_are_refused(saved: Path) -> None:
    with torch.device("meta"):
        skeleton = Net()
        skeleton.scale = torch.ones(2)
    with pytest.raises(sp.ModelError, match=r"\.scale on the meta device"):
        load(saved, skeleton)


def test_unsaveable_models_are_named(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"step": 1}

    path = tmp_path / "m.safetensors"
    with pytest.raises(sp.ModelError, match="extra state"):
        save(Extra(2, 2), path)
    with pytest.raises(sp.ModelError, match="meta device"):
        save(nn.Linear(2, 2, device="meta"), path)
    with pytest.raises(sp.ModelError, match="UninitializedParameter"):
        save(nn.LazyLinear(2), path)
    assert not list(tmp_path.iterdir())


# --- damage -------------------------------------------------------------------------------------


def rewritten(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def with_metadata(path: Path, **changes: str) -> bytes:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] |= changes
    return rewritten(json.dumps(header).encode(), raw[8 + length :])


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda _: b"",
    "short": lambda _: b"\0\0\0",
    "text": lambda _: b"this is no model at all",
    "a zip of zeros": lambda _: b"PK\x03\x04" + b"\0" * 100,
    "a pickle": lambda _: b"\x80\x04N.",
    "huge length": lambda _: rewritten(b"{}", length=2**63),
    "length past the end": lambda _: rewritten(b"{}", length=100),
    "deep": lambda _: rewritten(b"[" * 200_000),
    "deep object": lambda _: rewritten(b'{"a":' * 100_000),
    "no object": lambda _: rewritten(b"[]"),
    "no text": lambda _: rewritten(b"\xff\xfe" * 50),
    "huge tensor": lambda _: rewritten(
        json.dumps(
            {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}
        ).encode(),
        b"\0" * 4,
    ),
    "offsets past the end": lambda _: rewritten(
        json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    ),
    "duplicate names": lambda _: rewritten(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"\0",
    ),
    "plain": lambda _: rewritten(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0"),
    "trailing bytes": lambda path: path.read_bytes() + b"\0",
    "later schema": lambda path: with_metadata(path, schema="2"),
    "other format": lambda path: with_metadata(path, format="pt"),
    "recipe is no JSON": lambda path: with_metadata(path, recipe="{"),
    "recipe is a list": lambda path: with_metadata(path, recipe="[]"),
    "recipe is deep": lambda path: with_metadata(path, recipe="[" * 100_000),
    "recipe without fabrics": lambda path: with_metadata(path, recipe='{"first":{}}'),
    "recipe of huge stages": lambda path: with_metadata(
        path,
        recipe='{"first":{"in":8,"out":8,"branches":[[[1,999999999999,8,1],[1,8,999999999999,1]]]}}',
    ),
    "recipe emptied": lambda path: with_metadata(path, recipe="{}"),
    "aliases are a list": lambda path: with_metadata(path, aliases="[]"),
    "aliases of nothing": lambda path: with_metadata(path, aliases='{"a":"b"}'),
    "aliases of odd things": lambda path: with_metadata(path, aliases='{"a":[1]}'),
    "non_persistent is a number": lambda path: with_metadata(path, non_persistent="3"),
    "non_persistent changed": lambda path: with_metadata(path, non_persistent='["angles","flags"]'),
    "another sha256": lambda path: with_metadata(path, sha256="0" * 64),
    "another version": lambda path: with_metadata(path, version="9.9.9"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(saved: Path, case: str) -> None:
    saved.write_bytes(HOSTILE[case](saved))
    skeleton = dense_net()
    with untouched(skeleton), pytest.raises(sp.ModelError) as error:
        load(saved, skeleton)
    assert len(str(error.value)) > 20


def test_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    skeleton = nn.ModuleDict({"one": nn.Linear(8, 8)})
    skeleton["two"] = skeleton["one"]
    layer = sp.nn.FabricLinear(FABRICS["first"])
    save(nn.ModuleDict({"one": layer, "two": layer}), path)
    raw = path.read_bytes()
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 0xFF if position % 2 else 0x01
        path.write_bytes(damaged)
        with pytest.raises(sp.ModelError):
            load(path, skeleton)


def test_truncation_at_every_percent(saved: Path) -> None:
    raw = saved.read_bytes()
    skeleton = dense_net()
    for percent in range(100):
        saved.write_bytes(raw[: len(raw) * percent // 100])
        with pytest.raises(sp.ModelError):
            load(saved, skeleton)


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(sp.FileError, match="Cannot read"):
            load(path, nn.Linear(2, 2))
    (tmp_path / "m.safetensors").write_text("old")
    with pytest.raises(sp.FileError, match="exists"):
        save(nn.Linear(2, 2), tmp_path / "m.safetensors", overwrite=False)
    assert (tmp_path / "m.safetensors").read_text() == "old"


def test_an_unknown_device_is_refused(saved: Path) -> None:
    with pytest.raises(sp.ConfigError, match="device"):
        load(saved, dense_net(), device="qpu")


# --- failing disks ------------------------------------------------------------------------------


class Faults:
    """Lets the n-th call that touches the disk fail."""

    def __init__(self, patch: pytest.MonkeyPatch, failing: int, error: BaseException) -> None:
        self.left, self.error = failing, error
        for name in ("fsync", "replace", "mkdir"):
            patch.setattr(os, name, self.wrapped(getattr(os, name)))
        real = Path.open

        def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = real(path, mode, *args, **kwargs)
            if "w" not in mode:
                return file
            self.tick()
            return _Writer(file, self)

        patch.setattr(Path, "open", opened)

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return function(*args, **kwargs)

        return call


class _Writer:
    """A file whose writes may fail, half-way."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults

    def write(self, data: Any) -> int:
        try:
            self.faults.tick()
        except BaseException:
            self.file.write(bytes(data)[: len(data) // 2])
            raise
        return int(self.file.write(data))

    def seek(self, place: int) -> int:
        return int(self.file.seek(place))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (OSError(28, "No space left on device"), sp.FileError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "interrupted"],
)
def test_a_failing_save_leaves_the_old_file(
    saved: Path, fault: BaseException, raised: type[BaseException]
) -> None:
    old = saved.read_bytes()
    new = sparse_net(torch.float64)
    for failing in range(1, 1000):
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, failing, fault)
            with contextlib.suppress(raised):
                save(new, saved)
            if faults.left > 0:
                break
        if saved.read_bytes() == old:
            assert_equal(sparse_net(), load(saved, dense_net()))
        else:  # failed after the rename: the new file is whole
            assert_equal(new, load(saved, dense_net()))
        assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]
    assert failing > 10
    assert_equal(new, load(saved, dense_net()))
