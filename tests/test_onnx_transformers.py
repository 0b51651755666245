"""The help of transformers in exporting its models: used where needed, gone without a trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import sparsify as sp
from sparsify.export.onnx import capture
from sparsify.export.onnx.ops import DOMAIN
from sparsify.export.onnx.transformers import borrowed
from tests.support.zoo import ZOO, make

exporters = pytest.importorskip("transformers.exporters")


def patched() -> dict[tuple[str, str], Any]:
    """Every attribute that transformers patches, as its owner holds it; inherited ones are None."""
    from transformers.exporters import exporter_onnx, utils

    assert exporter_onnx._ONNX_TRANSLATION_TABLE
    held = {}
    for backend in ("dynamo", "onnx"):
        for place, name, _ in utils._PATCHES[backend]:
            owner = utils.import_dotted_path(place, missing_ok=True)
            if owner is not None:
                held[place, name] = vars(owner).get(name)
    return held


def test_the_patches_leave_no_trace() -> None:
    model, _ = make("Mixtral", ZOO)
    before, inside = patched(), {}
    assert before["torch.Tensor", "view"] is None  # inherited

    def fail() -> None:
        with borrowed(model) as help:
            assert help is not None
            inside.update(patched())
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert sum(inside[key] is not before[key] for key in before) > 20
    after = patched()
    assert all(after[key] is before[key] for key in before)


def test_nothing_is_borrowed_for_other_models() -> None:
    before = patched()
    with borrowed(nn.Linear(2, 2)) as help:
        assert help is None
        assert patched() == before


def test_older_versions_have_no_help(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make("Mixtral", ZOO)
    monkeypatch.setitem(sys.modules, "transformers.exporters", None)
    with borrowed(model) as help:
        assert help is None


def test_torch_alone_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(model: nn.Module) -> Any:
        raise AssertionError("not needed here")

    monkeypatch.setattr(capture, "borrowed", never)
    report = sp.export_onnx(nn.Linear(4, 2), tmp_path / "m.onnx", (torch.randn(2, 4),))
    assert report is not None


def test_both_reasons_are_told(tmp_path: Path) -> None:
    from transformers import PreTrainedConfig, PreTrainedModel

    class Undecided(PreTrainedModel):
        config_class = PreTrainedConfig

        def __init__(self) -> None:
            super().__init__(PreTrainedConfig())
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else x

    with pytest.raises(sp.ModelError) as caught:
        sp.export_onnx(Undecided(), tmp_path / "m.onnx", (torch.randn(2, 4),))
    first, _, second = str(caught.value).partition("With transformers' patches:")
    assert "decides on values" in first
    assert "decides on values" in second
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["T5", "Swin", "Mixtral"])
def test_models_that_need_help(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, inputs = make(name, ZOO)
    # The experts stay as they are: only transformers can write the product of all of them.
    kept = ["*.experts.*"] if name == "Mixtral" else []
    sparse = sp.sparsify(model, inputs, budget=0.5, exclude=kept)
    export, attempts = torch.onnx.export, []

    def second(*args: Any, **kwargs: Any) -> Any:
        attempts.append(torch.Tensor.view)
        if len(attempts) == 1:
            raise RuntimeError("the first attempt fails")
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", second)
    before = patched()
    axes = {key: {0: "batch", **labels} for key, labels in ZOO[name].dynamic.items()}
    report = sp.export_onnx(sparse, tmp_path / "m.onnx", inputs, dynamic=axes)
    assert report is not None
    assert len(attempts) == 2
    assert attempts[0] is not attempts[1]  # patched
    assert [set(d.sizes) for d in report.differences][-1] == {
        label for labels in ZOO[name].dynamic.values() for label in labels.values()
    }
    after = patched()
    assert all(after[key] is before[key] for key in before)
    file = onnx.load(tmp_path / "m.onnx")
    assert any(node.domain == DOMAIN for node in file.graph.node)
