"""The demo: its parts, a quick run of all of it, and the claim of a full run."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import sparsify as sp
from sparsify.demo import Arm, Result, run
from sparsify.demo.data import draw, spread, standard_library
from sparsify.demo.model import ByteTransformer


@dataclass(frozen=True)
class Run:
    result: Result
    folder: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("demo") / "files"
    state = torch.get_rng_state()
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        result = run(quick=True, steps=3, output=folder)
    assert torch.equal(torch.get_rng_state(), state)
    return Run(result, folder, stdout.getvalue(), stderr.getvalue())


def test_quick_run(quick: Run) -> None:
    result, folder = quick.result, quick.folder
    assert [arm.name for arm in result.arms] == ["dense", "narrow dense", "fabric"]
    dense, narrow, fabric = result.arms
    assert result.compression == dense.body_weights / fabric.body_weights >= 8
    assert narrow.body_weights >= fabric.body_weights
    assert (result.steps, result.threads) == (3, 1)
    assert result.onnx_error < 1e-4
    for arm in result.arms:
        assert 0 < arm.bits_per_byte < 9
        assert min(arm.training_s, arm.torch_ms, arm.onnxruntime_ms) > 0
        saved = folder / f"{arm.name.replace(' ', '_')}.safetensors"
        assert arm.file_bytes == saved.stat().st_size
    assert len(list(folder.iterdir())) == 6


def test_files_are_usable(quick: Run) -> None:
    folder = quick.folder
    loaded = sp.load(folder / "fabric.safetensors", model=ByteTransformer(256)).eval()
    runtime = onnxruntime.InferenceSession(str(folder / "fabric.onnx"))
    tokens = torch.randint(256, (5, 128), generator=torch.Generator().manual_seed(0))
    (scores,) = runtime.run(None, {runtime.get_inputs()[0].name: tokens.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(scores), loaded(tokens), atol=1e-4, rtol=1e-4)


def test_result_is_data(quick: Run) -> None:
    result = quick.result
    data = json.loads(result.to_json())
    arms = tuple(Arm(**arm) for arm in data["arms"])
    assert arms == result.arms
    assert data["gain"] == result.gain


def test_the_table_alone_goes_to_stdout(quick: Run) -> None:
    assert quick.stdout == f"{quick.result}\n"
    assert len(quick.stdout.splitlines()) == 5
    assert "final head" in quick.stderr
    assert quick.result.verdict() in quick.stderr


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 1.5}, {"threads": 0}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(sp.ConfigError, match=r"must be a whole number of 1 or more; got"):
        run(**options)


def _arm(name: str, bits: float, seconds: float) -> Arm:
    weights = 100 if name == "fabric" else 800
    return Arm(name, 8, weights, weights, 1, bits, 1e-3, seconds, 1.0, 1.0)


@pytest.mark.parametrize(
    ("bits", "seconds", "said"),
    [
        (2.0, 9.0, ("0.500 better than its narrow twin", "3.0 times faster")),
        (2.7, 1.0, ("0.200 worse than its narrow twin", "less time than the narrow twin")),
    ],
)
def test_verdict_tells_both_sides(bits: float, seconds: float, said: tuple[str, ...]) -> None:
    arms = (_arm("dense", 2.4, 9.0), _arm("narrow dense", 2.5, 3.0), _arm("fabric", bits, seconds))
    verdict = Result(arms, 1, 1, 0, 1, 0.0, 1.0).verdict()
    assert "8.0 times fewer" in verdict
    for part in said:
        assert part in verdict


def test_text_is_split_by_file(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"module{number}.py").write_bytes(b"%03d" % number * 400)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "skipped.py").write_bytes(b"xyz" * 400)
    corpus = standard_library(tmp_path)
    sides = [
        {bytes(side[i : i + 3].tolist()) for i in range(0, len(side), 3)}
        for side in (corpus.train, corpus.held_out)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == corpus.files == 200
    assert torch.equal(standard_library(tmp_path).train, corpus.train)


def test_no_sources(tmp_path: Path) -> None:
    with pytest.raises(sp.FileError, match=r"Use a Python that has its \.py files"):
        standard_library(tmp_path)


def test_windows() -> None:
    text = torch.arange(200, dtype=torch.uint8)
    random = torch.Generator().manual_seed(0)
    for windows in (draw(text, 50, 8, random), spread(text, 50, 8)):
        assert windows.shape == (50, 9)
        assert bool((windows.diff(dim=1) == 1).all())
    assert spread(text, 50, 8)[[0, -1], [0, -1]].tolist() == [0, 199]


@pytest.mark.slow
def test_the_claim() -> None:
    """At equal text: an eighth of dense's body weights, and a lower loss than the narrow twin."""
    result = run()
    assert result.compression >= 8
    assert result.arm("narrow dense").body_weights >= result.arm("fabric").body_weights
    assert result.gain > 0
