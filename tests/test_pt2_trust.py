"""Exported programs that are damaged, or that would run code: refused before torch sees them."""

from __future__ import annotations

import io
import json
import os
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsify as sp
from sparsify.cli import main
from sparsify.frontend.pt2.file import open_program
from tests.support.zoo.entry import noise

MARK = "code-ran"
CALL = f"__import__('os').mkdir('{MARK}')"


class Evil:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, (MARK,)


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "m.pt2"
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    shapes = ({0: torch.export.Dim("rows", max=64)},)
    torch.export.save(torch.export.export(model, (noise(3, 64),), dynamic_shapes=shapes), path)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which code that ran would leave a mark."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewritten(
    good: Path, place: Path, change: Callable[[str, bytes], bytes], **more: bytes
) -> Path:
    """The good file with entries changed, and further entries by their path."""
    path = place / "evil.pt2"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, data in more.items():
            new.writestr(f"{root}/{name}", data)
    return path


def program(edit: Callable[[Any], Any]) -> Callable[[str, bytes], bytes]:
    """A change of the program's JSON."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        tree = json.loads(data)
        edit(tree)
        return json.dumps(tree).encode()

    return change


def swapped(pattern: str, text: str) -> Callable[[str, bytes], bytes]:
    """A change of the program's text."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        new, count = re.subn(pattern, lambda _: text, data.decode())
        assert count
        return new.encode()

    return change


def samples(value: Any) -> Callable[[str, bytes], bytes]:
    return lambda name, data: pickled(value) if "sample_inputs" in name else data


def config(folder: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if f"{folder}/" in name and name.endswith("config.json"):
            return data.replace(b'"use_pickle": false', b'"use_pickle": true')
        return data

    return change


def same(_: str, data: bytes) -> bytes:
    return data


EVIL: dict[str, tuple[Callable[[str, bytes], bytes], dict[str, bytes], str]] = {
    "pickled example inputs": (samples(((Evil(),), {})), {}, "example inputs are a pickle"),
    "a size that is code": (swapped(r"Symbol\([^)]*\)", CALL), {}, "it has the size"),
    "a size with another function": (swapped(r"Symbol\([^)]*\)", "exec(1)"), {}, "it has the size"),
    "a guard that is code": (program(lambda t: t["guards_code"].append(CALL)), {}, "the guard"),
    "an operator that is none": (
        swapped(r"torch\.ops\.aten\.relu\.default", "torch.os.mkdir"), {}, "calls 'torch.os.mkdir'",
    ),
    "an operator that opens files": (
        swapped(r"torch\.ops\.aten\.relu\.default", "torch.ops.aten.from_file.default"),
        {},
        "no operator",
    ),
    "an extension": (swapped(r"torch\.ops\.aten\.relu\.default", "#x"), {}, "no operator"),
    "pickled weights": (config("weights"), {}, "weights are pickles"),
    "an object": (same, {"data/constants/opaque_obj_0": pickled(Evil())}, "opaque_obj_0, a pickle"),
    "weights as they were": (same, {"data/weights/model.pt": pickled({})}, "model.pt, a pickle"),
    "a module to import": (
        swapped(r'\\"context\\": \\"null\\"', r'\"context\": \"{\\\"__enum__\\\": true}\"'),
        {},
        "name a module to import",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_files_that_would_run_code_are_refused(name: str, good: Path, place: Path) -> None:
    change, more, message = EVIL[name]
    path = rewritten(good, place, change, **more)
    with pytest.raises(sp.ModelError, match="could run code") as refusal:
        sp.load(path)
    assert message in str(refusal.value)
    assert "--trust-pickle" in str(refusal.value)
    assert main(["plan", str(path)]) == 4
    assert not (place / MARK).exists()


@pytest.mark.parametrize("name", ["pickled example inputs", "a size that is code"])
def test_torch_itself_would_have_run_it(name: str, good: Path, place: Path) -> None:
    """Or else the test above would show nothing."""
    change, more, _ = EVIL[name]
    path = rewritten(good, place, change, **more)
    with pytest.raises(Exception):  # noqa: B017  (after the fact)
        torch.export.load(path)
    assert (place / MARK).exists()


def test_trust_lets_a_pickle_in(good: Path, place: Path) -> None:
    x = noise(3, 64)
    path = rewritten(good, place, samples(((x,), {"": range(3)})))
    with pytest.raises(sp.ModelError, match="could run code"):
        open_program(path)
    assert (
        open_program(path, trust_pickle=True).state_dict.keys()
        == open_program(good).state_dict.keys()
    )


def test_files_of_old_torch_need_trust(place: Path) -> None:
    with zipfile.ZipFile(place / "old.pt2", "w") as archive:
        archive.writestr("version", "5.3")
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(sp.ModelError, match=r"torch 2\.7"):
        sp.load(place / "old.pt2")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(share: float, good: Path, place: Path) -> None:
    data = good.read_bytes()
    (place / "m.pt2").write_bytes(data[: int(share * len(data))])
    with pytest.raises(sp.ModelError, match=r"no exported program|damaged"):
        sp.load(place / "m.pt2")


def test_flipped_bytes_never_give_another_model(good: Path, place: Path) -> None:
    data, path = good.read_bytes(), place / "m.pt2"
    expected = open_program(good).state_dict
    random_places = random.Random(0).sample(range(len(data)), 60)
    refused = 0
    for position in random_places:
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            found = open_program(path).state_dict
        except sp.ModelError:
            refused += 1
            continue
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert refused > 40


def test_two_entries_of_one_name(good: Path, place: Path) -> None:
    with zipfile.ZipFile(good) as old:
        name = next(n for n in old.namelist() if n.endswith("model.json"))
    path = rewritten(good, place, same)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "{}")
    with pytest.raises(sp.ModelError, match="two entries"):
        sp.load(path)


def test_other_files(place: Path) -> None:
    (place / "text.pt2").write_text("no archive")
    with zipfile.ZipFile(place / "empty.pt2", "w") as archive:
        archive.writestr("a/b", "")
    torch.save({"a": torch.zeros(2)}, place / "weights.pt2")
    for name in ("text", "empty", "weights"):
        with pytest.raises(sp.ModelError, match="no exported program"):
            sp.load(place / f"{name}.pt2")
    with pytest.raises(sp.FileError, match="no such file"):
        sp.load(place / "missing.pt2")
    assert main(["plan", "missing.pt2"]) == 6


def test_classes_and_operators_that_nobody_defined(good: Path, place: Path) -> None:
    path = rewritten(
        good, place, swapped(r'(?<=\\"type\\": \\")builtins\.dict', "my.models.Output")
    )
    with pytest.raises(sp.ModelError, match=r"class my\.models\.Output.*import the module"):
        sp.load(path)
    path = rewritten(
        good, place, swapped(r"torch\.ops\.aten\.relu\.default", "torch.ops.mine.op.default")
    )
    with pytest.raises(sp.ModelError, match=r"operator mine::op.*import the package"):
        sp.load(path)
