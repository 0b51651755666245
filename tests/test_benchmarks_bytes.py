"""The byte-level benchmark and the script that runs all of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sparsify as sp
from tests.support.benchmarks import module, trial
from tests.support.paths import ROOT, run_python

SCRIPT = ROOT / "examples" / "08_does_it_learn.py"


def ended(bits: float, point: dict[str, Any]) -> sp.Trial:
    known = {"body": 1000, "flops": 2e6, "cpu_s": 5.0, "curve": [(1, 8.0), (2, bits)]}
    return trial(point, validation=bits, test=bits + 0.01, **known)


def simulate(
    points: Callable[[list[sp.Trial]], list[dict[str, Any]]], best: float = 0.004
) -> list[sp.Trial]:
    """What a benchmark would train, if this were the best rate of every arm."""
    found: list[sp.Trial] = []
    for _ in range(20):
        wanted = points(found)
        if not wanted:
            return found
        found += [ended(2 + abs(math.log2(p["lr"] / best)), p) for p in wanted]
    raise AssertionError("the benchmark never ends")


@pytest.fixture
def equal_size(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The main comparison, which searches where 0.004 is among the rates of every arm."""
    benchmark = module("byte_lm.equal_size")
    monkeypatch.setattr(benchmark, "RATE", 0.002)
    return benchmark


@pytest.mark.parametrize("arm", ["dense", "narrow dense", "automatic", "random mask"])
def test_an_arm_learns_and_keeps_its_budget(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    byte_lm = module("byte_lm.trial")
    monkeypatch.setattr(byte_lm, "WINDOWS", 16)
    monkeypatch.setattr(byte_lm, "LAYERS", 1)
    budget = 1.0 if arm == "dense" else 0.25
    result = byte_lm.run(arm, width=64, budget=budget, lr=0.004, seed=0, steps=12)
    assert result["test"] < 5.5  # 8 is knowing nothing
    assert [step for step, _ in result["curve"]][-1] == 12
    assert result["body"] <= budget * 12 * 64**2 * (1.1 if arm == "narrow dense" else 1)
    assert result["flops"] > 6 * result["body"]
    json.dumps(result)


def test_the_files_of_a_run_are_apart() -> None:
    byte_lm = module("byte_lm.trial")
    train, validation, test = (bytes(part.numpy()) for part in byte_lm.texts())
    assert min(len(validation), len(test)) >= 400_000
    for other in (validation, test):
        middle = other[len(other) // 2 :][:200]
        assert middle not in train


@pytest.mark.parametrize(("width", "budget"), [(128, 0.1), (256, 0.1), (256, 0.25), (512, 0.05)])
def test_the_narrow_twin_has_the_weights_of_the_budget(width: int, budget: float) -> None:
    thin, head = module("byte_lm.trial").narrow(width, budget)
    assert thin % head == 0
    assert thin**2 / width**2 == pytest.approx(budget, rel=0.1)


def test_rates_are_searched_before_seeds(equal_size: Any) -> None:
    first = equal_size.points([], quick=False)
    assert {point["seed"] for point in first} == {0}
    found = simulate(lambda found: equal_size.points(found, quick=False))
    finals = [t for t in found if t.point["seed"] > 0]
    assert {t.point["lr"] for t in finals} == {0.004}
    main = [cell for cell in equal_size.cells(quick=False) if not equal_size.is_aside(cell)]
    assert len(finals) == 2 * len(main)


def test_tables_have_every_arm_at_its_best_rate(equal_size: Any, tmp_path: Path) -> None:
    found = simulate(lambda found: equal_size.points(found, quick=False))
    text = equal_size.table(found)
    rows = [line for line in text.splitlines() if "| 0.004 | 0.02 | 2.010 " in line]
    cells = equal_size.cells(quick=False)
    assert len(rows) == len(cells)
    main = [row for row in rows if "| 2.010 ± 0.000 | 3 |" in row]
    assert len(main) == sum(not equal_size.is_aside(cell) for cell in cells)
    equal_size.figure(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_the_loss_of_the_default_rate_is_told(tmp_path: Path) -> None:
    default_rate = module("byte_lm.default_rate")
    best = 2 * default_rate.TOTAL / 256
    found = simulate(lambda found: default_rate.points(found, quick=False), best)
    rows = default_rate.table(found).splitlines()[2:]
    assert len(rows) == 9
    lost = ["0.000"] * 3 + ["1.000"] * 3 + ["2.000"] * 3
    assert [row.split("|")[-2].strip() for row in rows] == lost
    default_rate.figure(found, tmp_path / "rates.png")


def test_the_rate_of_embeddings_and_head_is_chosen_too(equal_size: Any) -> None:
    """Where the other rate is better, all seeds take it; what it is at one rate says the rest."""
    cell = equal_size.cells(quick=True)[1]

    def bits(point: dict[str, Any]) -> float:
        worse = abs(math.log2(point["lr"] / 0.004))
        return 2 + worse - (0.1 if point.get("outer") == equal_size.OUTER else 0)

    found: list[sp.Trial] = []
    while wanted := equal_size.trainings(cell, found, (0, 1)):
        found += [ended(bits(point), point) for point in wanted]
    assert [trial.point.get("outer") for trial in found].count(equal_size.OUTER) == 2
    best = equal_size.chosen(cell, found)
    assert [trial.point["seed"] for trial in best] == [0, 1]
    assert {trial.point["outer"] for trial in best} == {equal_size.OUTER}
    assert "| 0.004 | 0.05 | 1.910 ± 0.000 | 2 |" in equal_size.table(found)


def test_long_runs_are_done_once() -> None:
    long = module("byte_lm.long")
    wanted = long.points([])
    assert {point["steps"] * 2048 for point in wanted} == {20_480_000}
    found = simulate(lambda found: long.points(found))
    assert [trial.point for trial in found] == wanted
    assert "After 20,480,000 bytes" in long.table(found)


def test_every_benchmark_of_the_table_is_there() -> None:
    for name in module("").BENCHMARKS.values():
        benchmark = module(name.removeprefix("benchmarks."))
        assert all(hasattr(benchmark, face) for face in ("run", "points", "table", "figure"))


def test_the_script_reports_what_is_there(tmp_path: Path) -> None:
    equal_size = module("byte_lm.equal_size")
    found = simulate(lambda found: equal_size.points(found, quick=True))
    lines = [json.dumps(dataclasses.asdict(t)) + "\n" for t in found]
    (tmp_path / "byte_lm.jsonl").write_text("".join(lines))
    done = run_python(str(SCRIPT), "byte_lm", "--report", "--out", str(tmp_path), cwd=tmp_path)
    assert "| narrow dense, 10% |" in done.stdout
    assert (tmp_path / "byte_lm.md").read_text() in done.stdout
    assert (tmp_path / "byte_lm.png").exists()
