"""Every example runs as a script and shows what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.paths import ROOT, run_python

EXAMPLES = ROOT / "examples"


def _output(name: str, folder: Path, *arguments: str) -> str:
    """What a script prints, run elsewhere than in the checkout; it must leave no file behind."""
    done = run_python("-W", "error", str(EXAMPLES / name), *arguments, cwd=folder)
    assert not list(folder.iterdir())
    return done.stdout


def _shares(text: str) -> list[float]:
    """The percentages before the word "right", in order."""
    return [
        float(line.split("%")[0].split()[-1]) for line in text.splitlines() if "% right" in line
    ]


def test_all_lessons_are_here() -> None:
    lessons = [path.name[:2] for path in sorted(EXAMPLES.glob("[0-9]*.py"))]
    assert lessons == sorted(set(lessons))
    assert {"01", "02", "03", "04", "05", "06", "07"} <= set(lessons)


def test_quickstart(tmp_path: Path) -> None:
    dense, fabric = _shares(_output("01_quickstart.py", tmp_path))
    assert min(dense, fabric) > 88
    assert fabric > dense - 3


def test_plan_then_convert(tmp_path: Path) -> None:
    text = _output("02_plan_then_convert.py", tmp_path)
    assert "final head" in text
    assert "excluded by 'stem'" in text
    assert "Loaded bit by bit: True as Encoder" in text


@pytest.mark.slow
def test_train_char_lm(tmp_path: Path) -> None:
    """Its own learning rates are worth a quarter of a bit to a fabric; 0.5 was measured."""
    text = _output("03_train_char_lm.py", tmp_path)
    bits = [float(line.split()[-4]) for line in text.splitlines() if "bits per byte" in line]
    _, one_rate, grouped = bits
    assert grouped < one_rate - 0.25


def test_does_the_score_predict(tmp_path: Path) -> None:
    text = _output("05_does_the_score_predict.py", tmp_path, "--quick")
    bulk, single = (float(part.split()[-1]) for part in text.splitlines()[0].split(";"))
    assert abs(bulk - single) < 1e-4
    assert "| **default** |" in text


def test_deploy_onnx(tmp_path: Path) -> None:
    text = _output("04_deploy_onnx.py", tmp_path)
    assert text.count("as in torch: True") == 3


@pytest.mark.slow
def test_depth_quick(tmp_path: Path) -> None:
    default, orthogonal, relu, mirrored = _shares(_output("06_depth.py", tmp_path, "--quick"))
    assert default < 20
    assert min(orthogonal, mirrored) > 90
    assert relu < 80


@pytest.mark.slow
def test_pretrained_quick(tmp_path: Path) -> None:
    """All motions; a model that has learned nothing yet has nothing to lose."""
    text = _output("07_pretrained.py", tmp_path, "--quick")
    assert text.count("with calibration") == 2
    assert "mean error" in text
    assert text.rstrip().endswith("(rate 0.003)")
