"""ONNX files that cannot be read or written: the class, the message, the code, nothing left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import sparsify as sp
from sparsify.cli import main
from tests.support.onnx_files import FILES, model, node, save

BUDGET = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("onnx")
    for name, build in FILES.items():
        save(build(), place / f"{name}.onnx")
    return place


@pytest.fixture
def external(tmp_path: Path) -> Path:
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    return save(FILES["keras"](), tmp_path / "m.onnx", **options)


def damaged(folder: Path, kind: str) -> Path:
    """A file that cannot serve."""
    whole = (folder / "keras.onnx").read_bytes()
    path = folder / f"{kind}.onnx"
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("this is no model\n" * 40)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "invalid":
        made = FILES["shared"]()
        made.graph.node[0].op_type = "MatMull"
        path.write_bytes(made.SerializeToString())
    elif kind == "future":
        made = FILES["shared"]()
        made.opset_import[0].version = 99
        path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "damaged"),
        ("text", "damaged"),
        ("empty", "damaged"),
        ("invalid", "not valid ONNX"),
        ("future", "not valid ONNX|opset"),
    ],
)
def test_files_that_are_no_models(
    kind: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(folder, kind)
    with pytest.raises(sp.ModelError, match=message):
        sp.onnx.read(path)
    assert main(["plan", str(path)]) == 4
    assert "Traceback" not in capsys.readouterr().err


def test_damage_never_ends_in_a_bug(folder: Path) -> None:
    """Bytes of the graph's own part are changed or lost; what still runs may be converted."""
    random = np.random.default_rng(5)
    path, done = folder / "damaged.onnx", 0
    for round_ in range(48):
        whole = bytearray(FILES[sorted(FILES)[round_ % len(FILES)]]().SerializeToString())
        for _ in range(2):
            place = int(random.integers(0, 1200)) * (1 if round_ % 2 else -1)
            if random.integers(0, 4):
                whole[place] = int(random.integers(0, 256))
            else:
                del whole[place]
        path.write_bytes(whole)
        with contextlib.suppress(sp.ModelError, sp.ConfigError, sp.NothingToDoError):
            sp.sparsify(sp.onnx.read(path), budget=BUDGET)
            done += 1
    assert 0 < done < 48


def _hostile(external: Path, key: str, value: str) -> None:
    made = onnx.load(external, load_external_data=False)
    for tensor in made.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
    external.write_bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("location", "../w.bin", sp.ModelError, "must lie in the folder"),
        ("location", "/etc/passwd", sp.ModelError, "must lie in the folder"),
        ("location", "gone.bin", sp.FileError, "does not exist"),
        ("offset", "99999999", sp.ModelError, "damaged"),
        ("offset", "-4", sp.ModelError, "no number of bytes"),
        ("length", "12", sp.ModelError, "damaged"),
    ],
)
def test_weights_that_are_not_there(
    external: Path, key: str, value: str, error: type[sp.SparsifyError], message: str
) -> None:
    _hostile(external, key, value)
    with pytest.raises(error, match=message):
        sp.onnx.read(external)


def test_links_are_not_followed(external: Path) -> None:
    data = external.with_name("w.bin")
    data.rename(data.with_name("other.bin"))
    data.symlink_to("other.bin")
    with pytest.raises(sp.ModelError, match="no links"):
        sp.onnx.read(external)


def test_no_dense_node(tmp_path: Path) -> None:
    path = save(model([node("Relu", "x", "y")], {}, [3, 4], [3, 4]), tmp_path / "m.onnx")
    with pytest.raises(sp.NothingToDoError, match="no dense"):
        sp.sparsify(sp.onnx.read(path))
    assert main(["plan", str(path)]) == 3


Case = tuple[Any, type[sp.SparsifyError], str]
BAD: dict[str, Case] = {
    "missing": (lambda m, p: sp.onnx.read(p / "no.onnx"), sp.FileError, "no file"),
    "a folder": (lambda m, p: sp.onnx.read(p), sp.FileError, "is a folder"),
    "its own path": (lambda m, p: sp.save(m, m.source.path), sp.FileError, "is read from"),
    "safetensors": (lambda m, p: sp.save(m, p / "o.safetensors"), sp.ConfigError, "saved as one"),
    "of a torch model": (
        lambda m, p: sp.save(torch.nn.Linear(2, 2), p / "o.onnx"),
        sp.ConfigError,
        "sp.export_onnx",
    ),
    "export": (lambda m, p: sp.export_onnx(m, p / "o.onnx", (1,)), sp.ConfigError, "ONNX file"),
    "skeleton": (lambda m, p: sp.load(m.source.path, model=m), sp.ConfigError, "whole model"),
    "too many inputs": (lambda m, p: m(torch.ones(1), torch.ones(1)), sp.ConfigError, "takes 1"),
    "name of an input": (lambda m, p: m(z=torch.ones(1)), sp.ConfigError, "takes the inputs x"),
    "type of an input": (
        lambda m, p: m(torch.ones(3, 64, dtype=torch.int64)),
        sp.ConfigError,
        r"float32 \[3, 64\] in the model; got int64",
    ),
    "shape of an input": (lambda m, p: m(torch.ones(3, 65)), sp.ConfigError, r"32 \[3, 65\]"),
    "example inputs": (
        lambda m, p: sp.plan(m, (torch.ones(2, 64),)), sp.ConfigError, r"got float32 \[2, 64\]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_calls(case: str, folder: Path, tmp_path: Path) -> None:
    action, error, message = BAD[case]
    with pytest.raises(error, match=message):
        action(sp.onnx.read(folder / "shared.onnx"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["convert", "{}", "-o", "o.safetensors"], 2),
        (["convert", "{}", "-o", "{}"], 6),
        (["convert", "tests.support.factories:mlp", "-o", "o.onnx"], 2),
        (["export", "{}", "-o", "o.onnx"], 2),
        (["bench", "{}"], 2),
        (["plan", "no.onnx"], 6),
        (["plan", "{}", "--weights", "{}"], 2),
    ],
)
def test_bad_commands(
    arguments: list[str], code: int, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    source = str(folder / "shared.onnx")
    assert main([text.format(source) for text in arguments]) == code
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(autouse=True)
def _no_noise() -> Iterator[None]:
    onnxruntime.set_default_logger_severity(4)
    yield
    onnxruntime.set_default_logger_severity(2)
