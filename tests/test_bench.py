"""Calibration: recovers made-up machines, keeps what it measured, and says what it found."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from sparsify.bench import cache, calibrate, latency_model
from sparsify.bench.cache import cache_file
from sparsify.bench.cases import ROWS, Case, cases
from sparsify.bench.fit import fit
from sparsify.bench.measure import measure
from sparsify.bench.timing import clock, seconds
from sparsify.cli import main
from sparsify.fabric import Stage

calibrate_module = sys.modules["sparsify.bench.calibrate"]


def paper_machine(case: Case) -> float:
    """Seconds on a machine whose law is known: calls, stages, arithmetic, memory."""
    site, rows = case.site, case.site.rows or 1
    if case.law == "graph":
        dense = site.in_features * site.out_features
        return 3e-5 + dense / 2e9 + site.parameters / 1e9 + dense * rows / 4e10
    if site.fabric is None:
        calls = 5e-6 if case.law == "dense" else 2e-5
        return calls + site.dense_flops / 8e10 + site.dense_parameters / 1e10
    moved = sum((s.a * s.d) * (s.b + s.c) for s in site.fabric.stages if isinstance(s, Stage))
    work = site.flops / 3e10 + moved * rows / 4e9
    return 2e-5 + 5e-6 * len(site.fabric.stages) + work


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSIFY_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


class Counted:
    """The paper machine, counting what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[Case] = Counter()

    def __call__(self, case: Case) -> float:
        self.asked[case] += 1
        return paper_machine(case)


# --- the fit --------------------------------------------------------------------------------------


def test_a_known_machine_is_recovered() -> None:
    model = calibrate(run=paper_machine)
    linear = [one for one in model.held_out if one.site.kind == "linear"]
    at_measured_rows = [abs(one.error) for one in linear if one.site.rows in ROWS]
    assert len(at_measured_rows) > 80
    assert max(at_measured_rows) < 0.03
    assert max(abs(one.error) for one in linear) < 0.04  # between them, on a line
    assert model.error.median < 0.03
    assert (model.threads, model.dtype) == (torch.get_num_threads(), "float32")


def test_wild_measurements_do_not_bend_the_fit() -> None:
    terms = [(1.0, float(n)) for n in range(1, 21)]
    times = [2.0 + 3.0 * n for _, n in terms]
    times[3] *= 8
    times[11] *= 0.3
    assert fit(terms, times) == pytest.approx((2.0, 3.0), rel=0.05)  # plain squares: (3.8, 1.9)


def test_costs_are_never_negative() -> None:
    costs = fit([(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)], [3.0, 2.0, 1.0])
    assert min(costs) >= 0


# --- the plan of measurements ---------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
def test_plan_is_the_same_every_time_and_covers_each_law(quick: bool) -> None:
    plan = cases(quick)
    assert plan == cases(quick)
    assert len(set(plan)) == len(plan)
    needed = [c for c in plan if not c.is_held_out and c.flops <= calibrate_module.NEEDED_FLOPS]
    laws = Counter((c.law, c.site.rows if c.law in ("dense", "fabric") else 0) for c in needed)
    for law in ("dense", "fabric"):
        assert all(laws[law, rows] >= 2 for rows in ROWS)
    assert laws["graph", 0] >= 6
    assert laws["convolution", 0] >= 8


def test_held_out_shapes_are_not_fitted() -> None:
    plan = cases()
    fitted = {case.site for case in plan if not case.is_held_out}
    held_out = [case.site for case in plan if case.is_held_out]
    assert not fitted & set(held_out)
    families = {str(site.fabric.family).partition("(")[0] for site in held_out if site.fabric}
    assert families >= {"clos", "monarch", "butterfly", "block_diagonal", "low_rank"}
    assert any(site.in_features != site.out_features for site in held_out)
    assert any(site.rows not in ROWS for site in held_out if site.kind == "linear")


def test_a_slow_machine_measures_what_is_needed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_module, "DEADLINE", -1.0)
    run = Counted()
    model = calibrate(run=run)
    assert set(run.asked.values()) == {1}
    assert max(case.flops for case in run.asked) <= calibrate_module.NEEDED_FLOPS
    assert model.error.median < 0.03


def test_short_cases_are_measured_in_every_round_and_the_best_counts() -> None:
    run = Counted()
    calibrate(quick=True, run=run)
    assert set(run.asked.values()) == {calibrate_module.ROUNDS}

    def disturbed(case: Case) -> float:
        run.asked[case] += 1
        return paper_machine(case) * (1 + run.asked[case] % calibrate_module.ROUNDS)

    assert calibrate(quick=True, run=disturbed) == calibrate(quick=True, run=paper_machine)


# --- measuring ------------------------------------------------------------------------------------


def test_measuring_leaves_torch_as_it_was() -> None:
    state, threads, grad = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    picked = {(case.law, case.site.fabric is None, case.stride): case for case in cases(True)}
    assert len(picked) >= 6
    for case in picked.values():
        assert 0 < measure(case) < 10
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


def test_median_of_repeated_calls() -> None:
    """A clock that a call moves by one second: every call takes a second."""
    ticks = [0.0]

    def call() -> None:
        ticks[0] += 1.0

    assert seconds(call, lambda: ticks[0]) == 1.0
    assert ticks[0] <= 5  # long calls are not repeated for long


def test_clock_belongs_to_the_thread_where_it_works_alone() -> None:
    if sys.platform != "win32":
        assert clock(1) is not clock(2)


@pytest.mark.slow
def test_real_calibration_is_recorded() -> None:
    model = calibrate(quick=True)
    assert len(model.held_out) > 50
    assert math.isfinite(model.error.median)
    assert math.isfinite(model.error.p90)


# --- the file -------------------------------------------------------------------------------------


def test_measured_once_then_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Counted()
    with caplog.at_level(logging.INFO, "sparsify"):
        first = latency_model(run=run)
        asked = run.asked.total()
        assert latency_model(run=run) == first
    assert run.asked.total() == asked > 0
    assert caplog.text.count("measuring this machine once, about 30 s") == 1
    assert [path.parent for path in folder.iterdir()] == [folder]
    assert latency_model(recalibrate=True, run=run) == first
    assert run.asked.total() == 2 * asked


def test_file_belongs_to_machine_threads_versions_and_kernels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cache_file()
    assert here == cache_file()
    names = {here}
    for name, value in (
        ("processor", lambda: "another"),
        ("versions", lambda: ("torch 9", "sparsify 9")),
        ("live_kernels", lambda: ("Native", "Native")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(cache, name, value)
            names.add(cache_file())
    with monkeypatch.context() as patch:
        patch.setattr(cache.torch, "get_num_threads", lambda: 77)
        names.add(cache_file())
    assert len(names) == 5


@pytest.mark.parametrize("damage", ["", "{", "\x00", '{"device": 1}'])
def test_damaged_file_is_measured_again(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = latency_model(run=paper_machine)
    cache_file().write_text(damage, encoding="utf-8")
    assert latency_model(run=paper_machine) == first
    assert "measured again" in caplog.text
    caplog.clear()
    assert latency_model(run=_never) == first
    assert not caplog.text


def test_file_of_another_machine_is_measured_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = latency_model(run=paper_machine)
    data = {**json.loads(first.to_json()), "device": "another"}
    cache_file().write_text(json.dumps(data), encoding="utf-8")
    assert latency_model(run=paper_machine) == first
    assert "another machine" in caplog.text


def _never(case: Case) -> float:
    raise AssertionError(f"measured {case}")


def test_folder_that_cannot_be_made_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPARSIFY_CACHE", str(tmp_path / "file" / "kept"))
    assert latency_model(run=paper_machine).error.median < 0.03
    assert "SPARSIFY_CACHE" in caplog.text


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is writable")
def test_folder_that_is_read_only_only_warns(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(0o500)
    assert latency_model(run=paper_machine).error.median < 0.03
    assert "SPARSIFY_CACHE" in caplog.text


@pytest.mark.parametrize(
    ("platform", "variable", "parts"),
    [
        ("linux", "XDG_CACHE_HOME", ("sparsify",)),
        ("linux", None, (".cache", "sparsify")),
        ("darwin", None, ("Library", "Caches", "sparsify")),
        ("win32", "LOCALAPPDATA", ("sparsify",)),
        ("win32", None, ("AppData", "Local", "sparsify")),
    ],
)
def test_folder_of_the_platform(
    platform: str,
    variable: str | None,
    parts: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SPARSIFY_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(cache.sys, "platform", platform)
    assert cache._folder() == tmp_path.joinpath(*parts)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def paper(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    run = Counted()
    monkeypatch.setattr(latency_model, "__kwdefaults__", {"run": run})
    return run


def test_command_prints_held_out_measurements(
    paper: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--calibrate", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert "measuring this machine once" in err
    model = latency_model()
    assert len(data["rows"]) == data["held-out shapes"] == len(model.held_out)
    assert data["median error"] == model.error.median
    assert set(data["rows"][0]) == {
        "shape", "fabric", "rows", "measured us", "predicted us", "error",
    }  # fmt: skip
    errors = [abs(row["error"]) for row in data["rows"]]
    assert errors == sorted(errors, reverse=True)
    assert Path(data["kept in"]) == cache_file()

    asked = paper.asked.total()
    assert main(["bench", "--calibrate", "--format", "json"]) == 0
    again, err = capsys.readouterr()
    assert json.loads(again) == data
    assert "measuring" not in err
    assert paper.asked.total() == asked
    assert main(["bench", "--calibrate", "--force", "--format", "md"]) == 0
    assert paper.asked.total() == 2 * asked
    assert "| shape | fabric |" in capsys.readouterr().out


def test_command_without_arguments_says_what_there_is(
    paper: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench"]) == 2
    assert "--calibrate measures this machine" in capsys.readouterr().err
    assert not paper.asked
