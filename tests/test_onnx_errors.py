"""A file that is wrong is never published, and the message says where it goes wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import sparsify as sp
from sparsify.errors import ConfigError, FileError, ModelError, VerificationError
from sparsify.export import exporter
from sparsify.export.onnx import export, write
from sparsify.verify import compare
from tests.support.onnx_nets import Net, X


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def corrupted(monkeypatch: pytest.MonkeyPatch, weight: str) -> None:
    """Make the step that writes the file change one number."""
    right = write.write_graph

    def wrong(graph: Any, path: Path, opset: int) -> None:
        right(graph, path, opset)
        model = onnx.load(path)
        held = next(w for w in model.graph.initializer if w.name == weight)
        array = numpy_helper.to_array(held).copy()
        array.flat[0] += 1
        held.CopyFrom(numpy_helper.from_array(array, weight))
        onnx.save(model, path)

    monkeypatch.setattr(export, "write_graph", wrong)


@pytest.mark.parametrize(
    ("weight", "layer"),
    [("first.factors.1", "first"), ("second.factors.0", "second"), ("dense.bias", "dense")],
)
def test_first_diverging_layer_is_named(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: str, layer: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    corrupted(monkeypatch, weight)
    with pytest.raises(VerificationError, match=f"first diverging layer is '{layer}'") as caught:
        sp.export_onnx(net, path, (X,))
    assert caught.value.exit_code == 5
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_verify_false_publishes_unseen(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupted(monkeypatch, "dense.bias")
    assert sp.export_onnx(net, tmp_path / "m.onnx", (X,), verify=False) is None
    report = compare(net, tmp_path / "m.onnx", (X,))
    assert not report.passed
    assert "FAILED" in str(report)


class Batchwise(nn.Module):
    """Does something else with many rows: no graph can."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] < 5 else x


class Decides(nn.Module):
    """Looks at values."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Counts(nn.Module):
    """Returns a number."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, 3


class Fixed(nn.Module):
    """Takes one batch size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(3, 80)


LINEAR = nn.Linear(16, 4)
WRONG: list[tuple[str, nn.Module, Any, dict[str, Any], type[Exception], str]] = [
    ("tensor", LINEAR, X, {}, ConfigError, r"Write \(x,\)"),
    ("no tensor", LINEAR, (3,), {}, ConfigError, "no tensor"),
    ("missing", LINEAR, (), {}, ConfigError, "missing a required argument: 'input'"),
    ("unknown", LINEAR, {"inptu": X}, {}, ConfigError, "Did you mean 'input'"),
    ("width", LINEAR, (X[..., :3],), {}, ConfigError, r"cannot run on inputs.*\[3, 5, 3\]"),
    ("empty", LINEAR, (X[:0],), {}, ConfigError, "empty along axis 0"),
    ("dynamic", LINEAR, (X,), {"dynamic": {"inputt": {0: "n"}}}, ConfigError, "mean 'input'"),
    ("axis", LINEAR, (X,), {"dynamic": {"input": {3: "n"}}}, ConfigError, "has 3 axes"),
    ("label", LINEAR, (X,), {"dynamic": {"input": {0: "a b"}}}, ConfigError, "must be a name"),
    ("labels", LINEAR, (X,), {"dynamic": {"input": [0]}}, ConfigError, "must be a dict"),
    ("sizes", LINEAR, (X,), {"dynamic": {"input": {0: "n", 1: "n"}}}, ConfigError, "agree in size"),
    ("opset", LINEAR, (X,), {"opset": 17}, ConfigError, "18 to 23"),
    ("no module", 3, (X,), {}, ConfigError, "needs a torch.nn.Module"),  # type: ignore[list-item]
    ("meta", nn.Linear(16, 4, device="meta"), (X,), {}, ModelError, "meta device"),
    ("bfloat16", nn.Linear(16, 4).bfloat16(), (X.bfloat16(),), {}, ModelError, "holds bfloat16"),
    ("decides", Decides(), (X,), {}, ModelError, "decides on values"),
    ("counts", Counts(), (X,), {}, ModelError, "returns a int as 'output_1'"),
    ("fixed", Fixed(), (X,), {}, ModelError, r"fixes an axis.*dynamic=\{'x': \{\}\}"),
    ("batchwise", Batchwise(), (X,), {}, VerificationError, "another way when it was captured"),
]


@pytest.mark.parametrize(
    ("model", "inputs", "options", "error", "message"),
    [entry[1:] for entry in WRONG],
    ids=[entry[0] for entry in WRONG],
)
def test_wrong_input_has_its_message(
    model: nn.Module,
    inputs: Any,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        sp.export_onnx(model, tmp_path / "m.onnx", inputs, **options)
    assert not list(tmp_path.iterdir())


def test_paths_that_cannot_be_written(net: Net, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="Cannot write"):
        sp.export_onnx(net, tmp_path / "no" / "m.onnx", (X,))
    with pytest.raises(FileError, match="is a folder"):
        sp.export_onnx(net, tmp_path, (X,))
    (tmp_path / "m.onnx").write_text("old")
    with pytest.raises(FileError, match="overwrite=True"):
        sp.export_onnx(net, tmp_path / "m.onnx", (X,), overwrite=False)
    with pytest.raises(ConfigError, match=r"no exporter '\.tflite'"):
        exporter(tmp_path / "m.tflite")


def test_session_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="There is no file"):
        sp.onnx.session(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"cannot load m\.onnx"):
        sp.onnx.session(tmp_path / "m.onnx")


def test_compare_says_what_does_not_fit(net: Net, tmp_path: Path) -> None:
    sp.export_onnx(LINEAR, tmp_path / "m.onnx", (X,))
    with pytest.raises(ConfigError, match="needs an input 'input'"):
        compare(net, tmp_path / "m.onnx", (X,))
    report = compare(nn.Linear(16, 4), tmp_path / "m.onnx", (X,), batches=(2,))
    assert not report.passed
    assert report.worst.batch == 2


@pytest.mark.parametrize("inputs", [(X,), (X[..., :3],)])
def test_nothing_of_the_user_changes(
    net: Net, tmp_path: Path, untouched: Any, inputs: Any, capfd: Any, caplog: Any
) -> None:
    net.drop.eval()  # a mix of modes
    logging.getLogger("torch.onnx").setLevel(logging.INFO)
    with untouched(net):
        try:
            sp.export_onnx(net, tmp_path / "m.onnx", inputs)
        except ConfigError:
            assert inputs[0].shape[-1] == 3
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert logging.getLogger("torch.onnx").level == logging.INFO
    net.drop.train()


class Lengthwise(nn.Module):
    """Told apart by the length alone: its exported form is another from 6 time steps on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if torch.compiler.is_exporting() or x.shape[1] < 6 else 2 * y


def test_every_axis_that_may_change_is_tried(tmp_path: Path) -> None:
    path, x = tmp_path / "m.onnx", torch.randn(2, 5, 4)
    axes = {"x": {0: "batch", 1: "time"}}
    with pytest.raises(VerificationError, match="at batch 7, time 6"):
        sp.export_onnx(Lengthwise(), path, (x,), dynamic=axes)
    assert not list(tmp_path.iterdir())
    report = sp.export_onnx(Lengthwise(), path, (x[:, :3],), dynamic=axes)
    assert report is not None
    assert [d.sizes for d in report.differences] == [{}, {}, {"time": 4}]
    assert str(report).splitlines()[-1].endswith("ok (time 4)")


def test_a_file_that_fixes_an_axis_inside_is_refused(tmp_path: Path) -> None:
    value = [onnx.TensorProto.FLOAT, ["batch", "time", 4]]
    shape = numpy_helper.from_array(np.array([-1, 20]), "shape")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "fixed",
        [onnx.helper.make_tensor_value_info("x", *value)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [shape],
    )
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx"
    )
    with pytest.raises(
        ModelError, match="at time 6, which the model takes: inside the file an axis"
    ):
        compare(Flatten(), tmp_path / "m.onnx", (torch.randn(2, 5, 4),))


class Flatten(nn.Module):
    """All of a row in one axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)
