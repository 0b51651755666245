"""Hundreds of layers of fabrics, no norm, no shortcut: what learns, and what does not."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.support.paths import ROOT, run_python


@pytest.mark.slow
def test_512_layers(tmp_path: Path) -> None:
    """The example in full; measured: 10.8 %, 95.0 %, 42.6 %, 97.5 %."""
    text = run_python(str(ROOT / "examples" / "06_depth.py"), cwd=tmp_path).stdout
    default, orthogonal, relu, mirrored = (
        float(line.split("%")[0]) for line in text.splitlines() if "% right" in line
    )
    assert "512 tanh layers" in text
    assert default < 20
    assert relu < 60
    assert min(orthogonal, mirrored) >= 90


@pytest.mark.slow
def test_1024_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed of the benchmark of depth; measured: 94 %."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    depth = importlib.import_module("benchmarks.depth")
    cell = {"net": "tanh", "arm": "monarch", "init": "orthogonal", "depth": 1024, "steps": 150}
    assert depth.run(**depth.rule(cell, seed=0))["accuracy"] >= 0.92
