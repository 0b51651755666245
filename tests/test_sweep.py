"""Sweeps: what runs, what is kept, what survives, on every engine and from the command line."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparsify as sp
from sparsify.cli import main
from sparsify.command.sweeping import parse_grid
from sparsify.sweep.engines import _collect, attempt_sent
from sparsify.sweep.journal import append
from sparsify.sweep.points import run_name
from tests.support.paths import ROOT
from tests.support.purity import untouched

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")
ENGINES = [
    pytest.param({"jobs": 1}, id="in process"),
    pytest.param({"jobs": 2}, id="joblib"),
    pytest.param({"jobs": 2, "engine": "ray"}, id="ray", marks=needs_ray),
]

CALLS: list[dict[str, Any]] = []  # of `noted`


# --- functions to sweep -------------------------------------------------------------------------


def noted(**point: Any) -> dict[str, Any]:
    CALLS.append(point)
    return dict(point)


def picky(x: int, limit: int = 2) -> dict[str, Any]:
    if x > limit:
        raise ValueError(f"{x} is too large")
    return {"square": x * x, "root": [math.sqrt(x)], "threads": torch.get_num_threads()}


def restless(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    return {"draw": torch.rand(1).item() + np.random.rand() + random.random()}


def wild(x: str) -> dict[str, Any]:
    numbers = {"nan": math.nan, "inf": math.inf, "minus": [-math.inf, {"deep": math.nan}]}
    return {
        **numbers,
        "text": x,
        "numpy": np.float32(0.5),
        "torch": torch.tensor(2),
        "pair": (1, None),
    }


def strange(kind: str) -> Any:
    return {"list": [1], "tensor": {"loss": torch.ones(2)}, "key": {1: 2}}[kind]


def leaves(code: int) -> dict[str, Any]:
    sys.exit(code)


def kills_itself(x: int, out: str) -> dict[str, Any]:
    if x == 2:
        while len(Path(out).read_bytes().splitlines()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return {"x": x}


def slow(x: int) -> dict[str, Any]:
    time.sleep(30 * (x > 1))
    return {"x": x}


def chatty(x: int) -> dict[str, Any]:
    print("not data", x)
    return {"x": x}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    CALLS.clear()
    return tmp_path / "results.jsonl"


def _strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


# --- what runs ----------------------------------------------------------------------------------


def test_a_grid_is_every_combination_in_order(out: Path) -> None:
    trials = sp.sweep(noted, {"a": (1, 2), "b": ["x", None]}, out)
    wanted = [{"a": a, "b": b} for a in (1, 2) for b in ("x", None)]
    assert [trial.point for trial in trials] == wanted == CALLS
    assert [trial.result for trial in trials] == wanted
    assert {trial.run for trial in trials} == {"tests.test_sweep:noted"}
    assert sp.read_trials(out) == trials


def test_points_may_be_listed_and_run_once_each(out: Path) -> None:
    points = [{"b": 1, "a": 2}, {"a": 3}, {"a": 2, "b": 1}]
    trials = sp.sweep(noted, iter(points), out)
    assert [trial.point for trial in trials] == points[:2] == CALLS
    assert sp.sweep(noted, [], out) == []
    assert sp.sweep(noted, {}, out)[0].result == {}


def test_what_the_file_has_is_not_run_again(out: Path) -> None:
    first = sp.sweep(noted, {"a": [1, 2]}, out)
    second = sp.sweep(noted, {"a": [3, 2, 1]}, out)
    assert CALLS == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert second == [sp.read_trials(out)[2], first[1], first[0]]


def test_the_same_point_of_another_function_does_run(out: Path) -> None:
    sp.sweep(dict, {"x": [1]}, out)
    assert sp.sweep(picky, {"x": [1]}, out)[0].result["square"] == 1


def test_a_failed_point_runs_again_and_stops_nothing(out: Path) -> None:
    def fails(trials: list[sp.Trial]) -> list[bool]:
        return [trial.error is not None for trial in trials]

    grid = {"x": [1, 3, 2]}
    trials = sp.sweep(picky, grid, out)
    assert fails(trials) == [False, True, False]
    assert trials[1].result is None
    assert trials[1].error.startswith("Traceback")
    assert "engines.py" not in trials[1].error
    assert "worker.py" not in trials[1].error
    assert trials[1].error.endswith("ValueError: 3 is too large")
    assert fails(sp.sweep(picky, grid, out)) == [False, True, False]
    assert len(out.read_text().splitlines()) == 4


@pytest.mark.parametrize("kind", ["list", "tensor", "key"])
def test_a_result_that_json_lacks_is_an_error(out: Path, kind: str) -> None:
    (trial,) = sp.sweep(strange, {"kind": [kind]}, out)
    assert {"list": "returned list", "tensor": "torch.Tensor", "key": "key 1"}[kind] in trial.error


def test_leaving_is_an_error_of_the_point(out: Path) -> None:
    assert sp.sweep(leaves, {"code": [3]}, out)[0].error.endswith("SystemExit: 3")


def test_a_run_may_change_its_point(out: Path) -> None:
    sizes = [3, 1, 2]
    trials = sp.sweep(_sorts, [{"sizes": sizes}], out)
    assert trials[0].point == {"sizes": [3, 1, 2]} == {"sizes": sizes}
    assert sp.sweep(_sorts, [{"sizes": sizes}], out) == trials


def _sorts(sizes: list[int]) -> dict[str, Any]:
    sizes.sort()
    return {"least": sizes[0]}


def test_a_sweep_leaves_everything_as_it_was(out: Path) -> None:
    sp.sweep(restless, {"seed": [0]}, out)
    with untouched():
        sp.sweep(restless, {"seed": [1, 2]}, out)
        sp.read_trials(out)


# --- engines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ENGINES)
def test_every_engine_finds_the_same(out: Path, options: dict[str, Any]) -> None:
    threads = torch.get_num_threads() if options["jobs"] == 1 else 1
    trials = sp.sweep(picky, {"x": [0, 1, 2, 3]}, out, **options)
    assert [trial.result for trial in trials] == [
        *({"square": x * x, "root": [math.sqrt(x)], "threads": threads} for x in range(3)),
        None,
    ]
    assert trials[3].error.endswith("ValueError: 3 is too large")
    assert {trial.machine["threads"] for trial in trials} == {threads}
    assert sorted(map(str, sp.read_trials(out))) == sorted(map(str, trials))


@pytest.mark.slow
@pytest.mark.parametrize("options", ENGINES[1:])
def test_a_killed_worker_costs_only_what_it_ran(out: Path, options: dict[str, Any]) -> None:
    grid = {"x": [0, 1, 2, 3, 4], "out": [str(out)]}
    trials = sp.sweep(kills_itself, grid, out, **options)
    assert [trial.result and trial.result["x"] for trial in trials] == [0, 1, None, 3, 4]
    assert "process died" in str(trials[2].error)
    assert len(sp.read_trials(out)) == 5


def test_what_ended_before_an_interruption_is_kept() -> None:
    kept: list[str] = []

    def submit(point: str) -> Future[str]:
        future: Future[str] = Future()
        if point != "2":  # the third never ends
            future.set_result(point)
        return future

    def keep(line: str) -> None:
        if not kept:
            kept.append("interrupted")
            raise KeyboardInterrupt
        kept.append(line)

    with pytest.raises(KeyboardInterrupt):
        _collect(submit, ["0", "1", "2"], 3, keep, BrokenExecutor)
    assert sorted(kept) == ["0", "1", "interrupted"]


SCRIPT = """
import sys, time, os
import sparsify as sp

FOLDER = sys.argv[1]

def study(x):
    if x > 1:
        open(os.path.join(FOLDER, f"running-{os.getpid()}"), "w").close()
        time.sleep(600)
    return {"double": 2 * x, "has": "monarch" in sp.topologies()}

if __name__ == "__main__":
    sp.sweep(study, {"x": [0, 1, 2, 3][: int(sys.argv[2])]}, FOLDER + "/out.jsonl", jobs=2)
"""


def _script(tmp_path: Path, points: int) -> subprocess.Popen[bytes]:
    script = tmp_path / "my_script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, script, tmp_path, str(points)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_an_interrupted_script_keeps_what_ended_and_leaves_no_process(tmp_path: Path) -> None:
    process = _script(tmp_path, 4)
    _wait_for(lambda: len(list(tmp_path.glob("running-*"))) == 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT, complaint
    assert b"KeyboardInterrupt" in complaint
    trials = sp.read_trials(tmp_path / "out.jsonl")
    assert {trial.run for trial in trials} == {"my_script:study"}
    results = sorted((trial.result["double"], trial.result["has"]) for trial in trials)
    assert results == [(0, True), (2, True)]
    workers = [path.name.removeprefix("running-") for path in tmp_path.glob("running-*")]
    _wait_for(lambda: not any(map(_runs, workers)))
    again = _script(tmp_path, 2)  # nothing is left to do: no worker, no new line
    assert again.communicate(timeout=120) == (None, b"")
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 2


def test_a_function_may_use_the_package_as_a_global() -> None:
    assert pickle.loads(pickle.dumps(sp)) is sp


def test_a_function_that_cannot_be_sent_is_named(out: Path) -> None:
    space: dict[str, Any] = {"__name__": "notebook", "LOCK": threading.Lock()}
    exec("def holds(x): return {'x': LOCK.locked()}", space)
    with pytest.raises(sp.ConfigError, match=r"notebook:holds cannot be sent.*jobs=1"):
        sp.sweep(space["holds"], {"x": [1]}, out, jobs=2)
    assert not out.exists()
    assert sp.sweep(space["holds"], {"x": [1]}, out)[0].result == {"x": False}


def test_a_function_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(sp.ConfigError, match=r"study:f cannot be loaded.*no_such_module"):
        attempt_sent(b"cno_such_module\nf\n.", "study:f", "{}")
    sent = pickle.dumps(picky)
    assert '"square": 4' in attempt_sent(sent, "study:f", '{"x": 2}')


@pytest.mark.parametrize(
    ("engine", "library", "extra"), [("joblib", "joblib", "sweep"), ("ray", "ray", "ray")]
)
def test_a_missing_engine_says_what_to_install(
    out: Path, monkeypatch: pytest.MonkeyPatch, engine: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(sp.MissingExtraError, match=rf"sparsify-fabric\[{extra}\]"):
        sp.sweep(picky, {"x": [1]}, out, jobs=2, engine=engine)
    assert not out.exists()
    if engine == "joblib":  # which one job does without
        assert sp.sweep(picky, {"x": [1]}, out)[0].error is None


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        ({"x": "monarch"}, r"values of 'x' are a list, such as \['monarch'\]"),
        ({"x": 3}, r"values of 'x' are a list"),
        ({"x": []}, r"'x' has no values"),
        ({"x": [math.nan]}, r"point 0\['x'\] is nan"),
        ({"x": [1, math.inf]}, r"point 1\['x'\] is inf"),
        ({"x": [torch.nn.ReLU()]}, r"point 0\['x'\] is torch\.nn\.modules\.activation\.ReLU"),
        ([{"x": 1, "limit": {0}}], r"point 0\['limit'\] is set"),
        ([{"x": [1, {2: 3}]}], r"point 0\['x'\]\[1\] has the key 2"),
        ([3], r"point 0 is int"),
        ({"y": [3]}, r"picky cannot be called with \{'y': 3\}.*arguments are x, limit"),
        ([{"x": 1}, {"x": 1, "limits": 2}], r"Did you mean 'limit'"),
    ],
)
def test_a_wrong_grid_is_named_before_anything_runs(out: Path, grid: Any, complaint: str) -> None:
    with pytest.raises(sp.ConfigError, match=complaint):
        sp.sweep(picky, grid, out)
    assert not out.exists()


class _Study:
    def run(self, x: int) -> dict[str, int]:
        return {"x": x}


@pytest.mark.parametrize(
    "function",
    [lambda x: {"x": x}, functools.partial(picky, limit=1), _Study().run, "my.study:train", None],
    ids=["lambda", "partial", "method", "text", "nothing"],
)
def test_a_function_without_a_name_of_its_own_is_refused(out: Path, function: Any) -> None:
    with pytest.raises(sp.ConfigError, match="function that its results can name"):
        sp.sweep(function, {"x": [1]}, out)
    assert not out.exists()


def test_names_are_those_of_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(**attributes: Any) -> str:
        scripts = type(sys)("__main__")
        vars(scripts).update(attributes)
        monkeypatch.setitem(sys.modules, "__main__", scripts)
        return run_name(space["train"])

    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def train(): ...", space)
    spec = importlib.util.spec_from_loader("my.study", None)
    assert named(__file__="/a/b/10_study.py", __spec__=None) == "10_study:train"
    assert named(__file__="/a/my/study.py", __spec__=spec) == "my.study:train"
    assert named(__spec__=None) == "__main__:train"
    assert run_name(_Study) == "tests.test_sweep:_Study"


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True, "2"])
def test_jobs_are_counted(out: Path, jobs: Any) -> None:
    with pytest.raises(sp.ConfigError, match="1 or more; got"):
        sp.sweep(picky, {"x": [1]}, out, jobs=jobs)


def test_engines_have_names(out: Path) -> None:
    with pytest.raises(sp.ConfigError, match=r"no engine 'rai'; there are 'joblib', 'ray'.*mean"):
        sp.sweep(picky, {"x": [1]}, out, engine="rai")


def test_results_are_read_without_torch() -> None:
    code = "import sys; from sparsify import read_trials, sweep; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- the file -----------------------------------------------------------------------------------


def test_numbers_that_json_lacks_come_back(out: Path) -> None:
    (trial,) = sp.sweep(wild, {"x": ["plain"]}, out)
    line = _strict(out.read_text())
    assert line["result"]["minus"] == ["-Infinity", {"deep": "NaN"}]
    (read,) = sp.read_trials(out)
    assert math.isnan(read.result.pop("nan"))
    assert math.isnan(read.result["minus"][1].pop("deep"))
    assert read.result == {
        **{"inf": math.inf, "minus": [-math.inf, {}], "text": "plain"},
        **{"numpy": 0.5, "torch": 2, "pair": [1, None]},
    }
    assert math.isnan(trial.result["nan"])


def test_a_point_is_kept_as_json_gives_it_back(out: Path) -> None:
    (trial,) = sp.sweep(noted, {"x": [(1, np.int64(2))], "y": np.array([0.5])}, out)
    assert CALLS == [{"x": [1, 2], "y": 0.5}] == [trial.point]
    assert type(CALLS[0]["x"][1]) is int


def test_the_machine_is_recorded(out: Path) -> None:
    machine = sp.sweep(noted, {"x": [1]}, out)[0].machine
    assert machine["torch"] == torch.__version__
    assert machine["sparsify"] == sp.__version__
    assert machine["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(machine[name] for name in ("processor", "platform", "threads"))
    assert machine["device"] is None or torch.cuda.is_initialized()


def test_a_line_cut_anywhere_is_left_out_and_made_again(out: Path) -> None:
    trials = sp.sweep(noted, {"x": [1, 2]}, out)
    whole = out.read_bytes()
    first = whole.index(b"\n") + 1
    for size in (*range(first, first + 9), *range(first + 9, len(whole), 17), len(whole) - 1):
        out.write_bytes(whole[:size])
        known = sp.read_trials(out)
        assert known == trials[: 2 if size == len(whole) - 1 else 1]  # lacks the line break only
        CALLS.clear()
        assert [trial.result for trial in sp.sweep(noted, {"x": [1, 2, 3]}, out)] == [
            {"x": 1},
            {"x": 2},
            {"x": 3},
        ]
        assert len(CALLS) == 3 - len(known)
        assert len(sp.read_trials(out)) == 3


def test_files_merge_with_results_before_errors(tmp_path: Path) -> None:
    def trial(x: int, result: dict[str, Any] | None, seconds: float) -> sp.Trial:
        error = "ValueError: no" if result is None else None
        return sp.Trial("study:f", {"x": x}, result, error, seconds, {})

    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    failed, first, second, other = (
        *(trial(1, None, 1.0), trial(1, {"y": 1}, 2.0), trial(1, {"y": 2}, 3.0)),
        trial(2, {"y": 3}, 4.0),
    )
    for path, several in ((here, (failed, other)), (there, (first, second, failed))):
        for one in several:
            append(path, one.to_line())
    assert sp.read_trials(here) == [failed, other]
    assert sp.read_trials(here, there) == [first, other]
    assert sp.read_trials(there, here) == [first, other]
    assert sp.read_trials() == []


WRITER = """
import sys
from sparsify.sweep.journal import append
from sparsify.sweep.trial import Trial
for number in range(60):
    point = {"writer": int(sys.argv[2]), "number": number}
    append(sys.argv[1], Trial("study:f", point, {"losses": [0.5] * 5000}, None, 1.0, {}).to_line())
"""


def test_writers_at_the_same_time_do_not_mix(out: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, out, str(number)], cwd=ROOT)
        for number in range(3)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert len(out.read_bytes().splitlines()) == 180
    assert len(sp.read_trials(out)) == 180


def test_a_full_disk_is_named_and_survived(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sp.sweep(noted, {"x": [1]}, out)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda target, data: write(target, data[: len(data) // 2]))
        with pytest.raises(sp.FileError, match="disk is full"):
            sp.sweep(noted, {"x": [2]}, out)
    assert [trial.point for trial in sp.read_trials(out)] == [{"x": 1}]
    sp.sweep(noted, {"x": [2]}, out)
    assert [trial.point for trial in sp.read_trials(out)] == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02K\x01.", b"hello\n", b"[1, 2]\n", b'{"run": 1}\n', b'{"layers": 3}\n'],
)
def test_a_file_of_something_else_is_refused_and_left_alone(out: Path, content: bytes) -> None:
    out.write_bytes(content)
    for use in (lambda: sp.read_trials(out), lambda: sp.sweep(noted, {"x": [1]}, out)):
        with pytest.raises(sp.ModelError, match="no file of results: line 1"):
            use()
    assert out.read_bytes() == content
    assert CALLS == []


def test_paths_that_cannot_serve_are_named(tmp_path: Path) -> None:
    with pytest.raises(sp.FileError, match="does not exist; make it first"):
        sp.sweep(noted, {"x": [1]}, tmp_path / "no" / "out.jsonl")
    with pytest.raises(sp.FileError, match="Cannot write"):
        sp.sweep(noted, {"x": [1]}, tmp_path)
    with pytest.raises(sp.FileError, match="Cannot read"):
        sp.read_trials(tmp_path / "none.jsonl")


# --- the command line ---------------------------------------------------------------------------

PICKY = "tests.test_sweep:picky"


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[str, str]]:
    monkeypatch.chdir(tmp_path)

    def command(*words: str, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        result = main(["sweep", *words])
        texts = capsys.readouterr()
        assert result == code, texts.err
        return texts.out, texts.err

    return command


def test_the_command_shows_a_table(run: Any) -> None:
    shown, said = run(PICKY, "-o", "r.jsonl", "x=1,2", "--quiet", "limit=5")
    lines = shown.splitlines()
    assert lines[0].split() == ["x", "limit", "square", "root", "threads", "seconds"]
    assert lines[2].split()[:4] == ["1", "5", "1", "[1.0]"]
    assert len(lines) == 4
    assert said == ""
    assert "2 of 2 points have results" in run(PICKY, "x=1,2", "limit=5", "--out", "r.jsonl")[1]


def test_the_command_shows_json(run: Any) -> None:
    shown, _ = run("tests.test_sweep:wild", "x=a", "-o", "r.jsonl", "--json")
    assert _strict(shown) == [_strict(Path("r.jsonl").read_text())]


def test_a_failed_run_is_code_4_after_the_table(run: Any) -> None:
    shown, said = run(PICKY, "x=1,3", "--output", "r.jsonl", code=4)
    assert "ValueError: 3 is too large" in shown
    assert "1 of 2 runs failed; r.jsonl has the tracebacks" in said
    run(PICKY, "x=1", "--output", "r.jsonl")


def test_what_a_function_prints_is_no_data(run: Any) -> None:
    shown, said = run("tests.test_sweep:chatty", "x=1", "-o", "r.jsonl")
    assert "not data 1" in said
    assert "not data" not in shown


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ((PICKY, "x=1"), 2, "required: -o"),
        ((PICKY, "x", "-o", "r"), 2, "name=value,value,...; got 'x'"),
        ((PICKY, "x=", "-o", "r"), 2, "got 'x='"),
        ((PICKY, "x=1,,2", "-o", "r"), 2, "value is missing"),
        ((PICKY, "x=1,True", "-o", "r"), 2, 'write true, or "True" in quotes'),
        ((PICKY, "x=nan", "-o", "r"), 2, "write a number"),
        ((PICKY, "x=1", "x=2", "-o", "r"), 2, "x comes twice"),
        ((PICKY, "y=1", "-o", "r"), 2, "arguments are x, limit"),
        (("no.such:thing", "x=1", "-o", "r"), 2, "no module 'no'"),
        (("tests.test_sweep:pick", "x=1", "-o", "r"), 2, "Did you mean 'picky'"),
        (("a.file.py", "x=1", "-o", "r"), 2, "such as my.study:train"),
        ((PICKY, "x=1", "-o", "r", "--engine", "dask"), 2, "no engine 'dask'"),
        ((PICKY, "x=1", "-o", "r", "--jobs", "0"), 2, "1 or more"),
        ((PICKY, "x=1", "-o", "r", "--job", "1"), 2, "Did you mean '--jobs'"),
        ((PICKY, "x=1", "-o", "no/r"), 6, "make it first"),
    ],
)
def test_a_wrong_command_is_named(run: Any, words: Any, code: int, complaint: str) -> None:
    assert complaint in run(*words, code=code)[1]
    assert not Path("r").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
def test_a_command_that_is_told_to_end_ends(out: Path) -> None:
    code = "import sys; from sparsify.cli import main; sys.exit(main())"
    words = ("sweep", "tests.test_sweep:slow", "x=1,2,3", "-o", str(out))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    _wait_for(lambda: out.exists() and out.read_bytes().endswith(b"\n"))
    process.terminate()
    assert process.wait(60) == 143
    assert [trial.result for trial in sp.read_trials(out)] == [{"x": 1}]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,0.5,-2e-3", [1, 0.5, -2e-3]),
        ("monarch,clos", ["monarch", "clos"]),
        ('true,null,"True"', [True, None, "True"]),
        ("[1,2],[3]", [[1, 2], [3]]),
        ('"a,b",c', ["a,b", "c"]),
        ('{"blocks":[4,8]},1', [{"blocks": [4, 8]}, 1]),
        ('"NaN",nano', ["NaN", "nano"]),
        ("0.1x,1 2,007", ["0.1x", "1 2", "007"]),
        ('""', [""]),
        ("a=b", ["a=b"]),
    ],
)
def test_values_are_json_or_text(text: str, values: list[Any]) -> None:
    assert parse_grid([f"x={text}"]) == {"x": values}


def test_the_demo_can_be_swept(run: Any) -> None:
    grid = ("topology=dense,monarch", "steps=1", "width=32")
    shown, _ = run("sparsify.demo.study:train", *grid, "-o", "r.jsonl", "--json")
    dense, sparse = (trial["result"] for trial in json.loads(shown))
    assert sparse["body_weights"] < 0.13 * dense["body_weights"]
    assert 0 < sparse["bits_per_byte"] < 20
