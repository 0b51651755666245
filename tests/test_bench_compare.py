"""Comparisons: who takes turns and when, what is counted, what is told, what is left behind."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import sparsify as sp
from sparsify.bench import comparison, exported, turns
from sparsify.bench.arms import PASSES, torch_arm
from sparsify.bench.comparison import RUNTIMES, Wanted, compare
from sparsify.bench.machine import kernels_of
from sparsify.bench.result import Result, Setting
from sparsify.bench.subject import DTYPES, Subject
from sparsify.bench.suites import SUITES
from sparsify.bench.timing import use_threads
from sparsify.bench.told import tell
from sparsify.bench.turns import MODES, Spread, take_turns
from sparsify.cli import main
from sparsify.command import benching
from sparsify.command.options import parse_budget, parse_fabric
from sparsify.export.inputs import Inputs
from sparsify.topology.monarch import Monarch
from tests.support.purity import untouched

MLP = "tests.support.factories:mlp"


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings with two threads are tested on machines with one core too."""
    monkeypatch.setattr(comparison, "cores", lambda: 2)


def layer(inputs: int = 32, outputs: int = 32) -> Subject:
    return Subject.layer(Monarch(blocks=4).build(inputs, outputs))


def subject(dense: nn.Module, *inputs: torch.Tensor) -> Subject:
    """A module that stands for itself."""
    return Subject("net", "", dense, dense, inputs, 2, 1)


# --- turns ----------------------------------------------------------------------------------------


class Stage:
    """Calls that take a known time on a clock of their own, and the order in which they came."""

    def __init__(self) -> None:
        self.seconds, self.order = 0.0, ""

    def now(self) -> float:
        return self.seconds

    def call(self, name: str, takes: float) -> Callable[[], None]:
        def play() -> None:
            self.seconds += takes
            self.order += name

        return play

    def play(self, mode: str, *takes: float) -> list[Spread]:
        dense, *others = (self.call(name, t) for name, t in zip("dab", takes, strict=False))
        return take_turns(dense, others, mode=mode, now=self.now, limit=0)


def test_strict_calls_each_rival_directly_after_dense() -> None:
    stage = Stage()
    found = stage.play("strict", 0.5, 0.25, 0.125)
    assert stage.order == "ddaabb" + 5 * "dadb"
    assert [spread.median for spread in found] == [0.5, 0.25, 0.125]
    assert [spread.samples for spread in found] == [10, 5, 5]


def test_warm_repeats_each_behind_a_call_that_is_not_counted() -> None:
    stage = Stage()
    found = stage.play("warm", 2**-13, 2**-12)  # 0.12 and 0.24 ms: two calls and one make a sample
    assert stage.order == "ddaa" + 5 * "dddaa"
    assert [spread.median for spread in found] == [2**-13, 2**-12]
    assert [spread.samples for spread in found] == [5, 5]


def test_calls_that_no_cache_helps_are_not_repeated() -> None:
    stage = Stage()
    stage.play("warm", 0.5, 0.25)
    assert stage.order == "ddaa" + 5 * "da"


def test_what_the_clock_costs_is_taken_off() -> None:
    seconds = 0.0

    def now() -> float:
        nonlocal seconds
        seconds += 1.0
        return seconds

    def call() -> None:
        nonlocal seconds
        seconds += 3.0

    found = take_turns(call, [call], mode="strict", now=now, limit=0)
    assert [spread.median for spread in found] == [3.0, 3.0]


def test_rounds_end_at_the_limit_or_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST_ROUNDS", 7)
    stage = Stage()
    nothing = stage.call("", 1.0)
    found = take_turns(nothing, [nothing], mode="strict", now=stage.now, limit=60)
    assert found[1].samples == 7


def test_quartiles() -> None:
    spread = Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (spread.low, spread.median, spread.high) == (2.0, 3.0, 4.0)
    assert spread.relative == pytest.approx(2 / 3)


# --- arms -----------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Keeps what it was called with, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: torch.Tensor, scale: int = 2) -> dict[str, Any]:
        self.modes.append((self.training, torch.is_grad_enabled()))
        return {"y": self.inner(x) * scale, "index": x.argmax(-1), "none": None}


def test_training_asks_for_the_gradients_of_inputs_and_all_weights() -> None:
    model, x = Recorder(), torch.randn(5, 4)
    grads = torch_arm(model, Inputs.bind(model, (x,)), "training").call()
    assert [tuple(grad.shape) for grad in grads] == [(5, 4), (3, 4), (3,)]
    assert all(grad.abs().sum() > 0 for grad in grads)
    assert set(model.modes) == {(True, True)}
    assert not x.requires_grad


def test_a_step_runs_the_optimiser_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layer().sparse
    before = [p.detach().clone() for p in model.parameters()]
    stepped: list[int] = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda o: (stepped.append(1), step(o))[1])
    arm = torch_arm(model, Inputs.bind(model, (torch.randn(2, 32),)), "step")
    arm.call()
    arm.call()
    assert len(stepped) == 2
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_memory_is_weights_and_what_backward_needs() -> None:
    model = nn.Linear(64, 32, bias=False)
    inputs = Inputs.bind(model, (torch.randn(8, 64),))
    weights = 4 * 64 * 32
    assert torch_arm(model, inputs, "forward").held == weights
    assert torch_arm(model, inputs, "training").held == weights + 4 * 8 * 64


def test_frozen_weights_and_whole_numbers_have_no_gradient() -> None:
    model = nn.Embedding(8, 4).requires_grad_(False)
    with pytest.raises(sp.ModelError, match="nothing that has a gradient"):
        torch_arm(model, Inputs.bind(model, (torch.zeros(3, dtype=torch.long),)), "training")


# --- subjects -------------------------------------------------------------------------------------


def test_a_layer_is_both_and_leaves_the_generator_alone() -> None:
    with untouched():
        found = layer(32, 64)
    assert found.density == found.sparse.density
    assert found.parameters == sum(p.numel() for p in found.sparse.parameters())
    assert found.dense_parameters == found.dense.weight.numel() == 32 * 64
    assert found.batch == 2


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_inputs_have_the_batch_that_is_asked_for(batch: int) -> None:
    assert layer().inputs(batch).tensors()["input"].shape == (batch, 32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cast_copies(dtype: str) -> None:
    found = layer()
    other = found.cast(dtype)
    assert found.dtype == "float32"
    assert other.dtype == dtype
    assert {p.dtype for p in other.sparse.parameters()} == {DTYPES[dtype]}
    assert other.inputs(3).tensors()["input"].dtype == DTYPES[dtype]


def test_inputs_without_rows_keep_their_size() -> None:
    found = subject(nn.ReLU(), torch.tensor(1.0))
    assert found.batch == 0
    assert found.inputs(0).tensors()
    with pytest.raises(sp.ConfigError, match="no first axis"):
        found.inputs(3)


# --- comparing ------------------------------------------------------------------------------------


def test_every_combination_comes_once_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    wanted = Wanted(RUNTIMES, (1, 3), (1, 2), ("float32",), tuple(PASSES), tuple(MODES), seconds=0)
    one = layer()
    with untouched():
        results, notes = compare([one], wanted)
    settings = [r.setting for r in results if r.kernel != "native"]
    torch_ones = {s for s in settings if s.runtime == "torch"}
    onnx_ones = {s for s in settings if s.runtime == "onnxruntime"}
    assert len(settings) == len(torch_ones) + len(onnx_ones)
    assert len(torch_ones) == 2 * 2 * 3 * 2
    assert {(s.batch, s.threads, s.mode) for s in onnx_ones} == {
        (b, t, m) for b in (1, 3) for t in (1, 2) for m in MODES
    }
    assert {s.passes for s in onnx_ones} == {"forward"}
    assert any("gradients in onnxruntime" in note for note in notes)
    assert not list(tmp_path.iterdir())


def test_the_kernel_can_be_forced() -> None:
    wanted = Wanted(batches=(2,), kernel="reference", seconds=0)
    assert {r.kernel for r in compare([layer()], wanted)[0]} == {"reference"}
    assert kernels_of(layer().sparse) != "reference"


def test_kernels_of_all_layers_are_named() -> None:
    graph = sp.nn.FabricLinear(sp.fabric("random_regular", 32, 32, degree=4))
    names = kernels_of(nn.Sequential(layer().sparse, nn.ReLU(), graph, graph)).split(", ")
    assert 1 <= len(names) == len(set(names))
    assert kernels_of(nn.ReLU()) == ""


class Witness(nn.Linear):
    """Keeps how it was called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen.add((torch.get_num_threads(), torch.is_grad_enabled(), self.training))
        return super().forward(x)


seen: set[tuple[int, bool, bool]] = set()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("passes", ["forward", "training"])
def test_calls_are_made_as_the_row_says(threads: int, passes: str) -> None:
    seen.clear()
    found = subject(Witness(4, 4), torch.ones(2, 4))
    compare([found], Wanted(threads=(threads,), passes=(passes,), seconds=0))
    assert seen == {(threads, passes == "training", passes == "training")}


class Broken(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise IndexError("room for two")
        return super().forward(x)


class Interrupted(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt


def test_a_model_that_fails_is_named() -> None:
    found = subject(Broken(4, 4), torch.ones(2, 4))
    message = r"net cannot be run in torch at batch 5 \(forward\): IndexError: room for two"
    with pytest.raises(sp.ModelError, match=message):
        compare([found], Wanted(batches=(2, 5), seconds=0))


def test_an_interrupt_puts_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    wanted = Wanted(("onnxruntime",), threads=(torch.get_num_threads() + 1,), seconds=0)
    monkeypatch.setattr("sparsify.bench.comparison.take_turns", stopped)
    one = layer()
    with untouched(), pytest.raises(KeyboardInterrupt):
        compare([one], wanted)
    assert not list(tmp_path.iterdir())


def test_native_is_measured_where_the_library_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = []
    real = exported.session

    def session(*args: Any, native: bool) -> Any:
        opened.append(native)
        return real(*args, native=False)

    monkeypatch.setattr(exported, "session", session)
    monkeypatch.setattr("sparsify.bench.comparison.why_not_native", lambda *_: None)
    results, notes = compare([layer()], Wanted(("onnxruntime",), (2,), seconds=0))
    assert [r.kernel for r in results] == ["body", "native", "body", "native"]
    assert opened == [False, False, True]  # dense, body, native
    assert not notes


@pytest.mark.parametrize(
    ("calls", "said"),
    [((0, 1), None), ((5, 5), "does not call"), (None, "no library today"), ((), "operators")],
)
def test_native_counts_only_if_its_calls_do(
    calls: tuple[int, ...] | None, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter of calls decides, not the wish."""
    counts: Iterator[int] = iter(calls or ())
    native = (
        SimpleNamespace(sparsify_ort_calls=lambda: next(counts)) if calls else SimpleNamespace()
    )
    monkeypatch.setattr(exported, "library", lambda: None if calls is None else native)
    monkeypatch.setattr(exported, "why_not", lambda: "no library today")
    monkeypatch.setattr(exported, "runtime_call", lambda *_, **__: lambda: None)
    reason = exported.why_not_native(Path("m.onnx"), layer().inputs(0))
    assert reason == said if said is None else said in str(reason)


def test_threads_come_back() -> None:
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# --- telling --------------------------------------------------------------------------------------


def result(ratio: float, batch: int = 16, kernel: str = "cpu", **setting: Any) -> Result:
    """A fabric with a quarter of the weights, `ratio` times as fast as dense."""
    how = {"runtime": "torch", "dtype": "float32", "threads": 1, "passes": "forward"}
    return Result(
        "monarch(blocks=4)",
        "64 -> 64",
        4096,
        1024,
        kernel,
        Setting(**{**how, "batch": batch, "mode": "warm", **setting}),
        dense=Spread(ratio * 1e-4, ratio * 0.9e-4, ratio * 1.1e-4, 9),
        sparse=Spread(1e-4, 1e-4, 1e-4, 9),
        dense_bytes=16384,
        sparse_bytes=4096,
    )


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (12.34, "12 x faster"),
        (3.21, "3.2 x faster"),
        (1.05, "1.05 x faster"),
        (1.005, "as fast"),
        (0.995, "as fast"),
        (0.95, "1.05 x slower"),
        (0.5, "2.0 x slower"),
        (0.05, "20 x slower"),
    ],
)
def test_verdict(ratio: float, words: str) -> None:
    found = result(ratio)
    assert found.verdict == words
    assert found.is_slower == ("slower" in words)
    assert found.efficiency == pytest.approx(ratio / 4)


def test_table_names_what_is_slower_and_puts_batches_side_by_side() -> None:
    results = [result(0.5, 1), result(4.0, 128), result(0.8, 1, "torch"), result(2.0, 128, "torch")]
    text = tell(results, ["something (for a reason)"], "table")
    assert "dtype: float32" in text.splitlines()
    assert "IQR" in text
    assert re.search(r"cpu +forward  warm  0\.12 \(2\.0 x slower\)  1\.00 \(4\.0 x faster\)", text)
    assert "Left out: something (for a reason)." in text
    assert text.endswith(
        "Slower than dense in 2 of 4 rows: monarch(blocks=4) 64 -> 64 in torch (cpu) at batch 1; "
        "monarch(blocks=4) 64 -> 64 in torch (torch) at batch 1."
    )
    assert tell([result(2.0)], [], "md").endswith("Slower than dense in none of 1 rows.")


def test_what_differs_is_a_column() -> None:
    lines = tell([result(2.0), result(2.0, threads=2)], [], "md").splitlines()
    head = next(line for line in lines if line.startswith("|"))
    assert head.startswith("| threads | passes | mode | batch | dense us | dense IQR | fabric us")
    assert any("processor time of one thread and wall time" in line for line in lines)
    assert "* kernel: cpu" in lines


ROW = {
    *("fabric", "shape", "dense_parameters", "parameters", "density", "kernel"),
    *("runtime", "dtype", "threads", "batch", "passes", "mode"),
    *("dense_us", "dense_us_q1", "dense_us_q3", "fabric_us", "fabric_us_q1", "fabric_us_q3"),
    *("samples", "speedup", "efficiency", "verdict", "dense_bytes", "fabric_bytes"),
}
FACTS = {
    "processor",
    "load average",
    "instruction sets",
    "versions",
    "dense",
    "times",
    "efficiency",
    "memory",
}


def test_json_is_plain_data() -> None:
    data = json.loads(tell([result(0.5)], ["why"], "json"))
    assert data["notes"] == ["why"]
    assert FACTS | {"notes", "rows", "warm", "forward"} == set(data)
    (row,) = data["rows"]
    assert set(row) == ROW
    assert (row["dense_us"], row["fabric_us"]) == pytest.approx((50, 100))
    assert (row["dense_us_q1"], row["dense_us_q3"]) == pytest.approx((45, 55))
    assert row["verdict"] == "2.0 x slower"


# --- the command ----------------------------------------------------------------------------------

LAYER = ("--in", "32", "--out", "32", "--batch", "2", "--mode", "warm")


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["bench", "--seconds", "0", "--json", *arguments]) == 0
        out, err = capsys.readouterr()
        data: dict[str, Any] = json.loads(out)
        assert len(err.splitlines()) == len(data["rows"])  # a line of progress for each
        assert all(set(row) == ROW for row in data["rows"])
        return data

    return run


@pytest.mark.parametrize(
    ("options", "key", "values"),
    [
        (("--fabric", "clos:ingress=4,middle=2", "low_rank"), "density", [0.15625, 0.0625]),
        (("--batch", "3"), "batch", [2, 3]),
        (("--batch", "2"), "batch", [2]),
        (("--threads", "1", "2"), "threads", [1, 2]),
        (("--dtype", "float32", "bfloat16"), "dtype", ["float32", "bfloat16"]),
        (("--mode", "strict"), "mode", ["warm", "strict"]),
        (("--passes", *PASSES), "passes", list(PASSES)),
        (("--kernel", "reference"), "kernel", ["reference"]),
        (("--budget", "0.25", "--fabric", "monarch"), "density", [0.25]),
    ],
)  # fmt: skip
def test_options_of_a_layer(
    bench: Callable[..., dict[str, Any]], options: tuple[str, ...], key: str, values: list[Any]
) -> None:
    assert list(dict.fromkeys(row[key] for row in bench(*LAYER, *options)["rows"])) == values


def test_layer_in_both_runtimes(bench: Callable[..., dict[str, Any]]) -> None:
    data = bench(*LAYER, "--runtime", "torch", "onnxruntime")
    found = {(row["runtime"], row["kernel"]) for row in data["rows"]}
    assert {runtime for runtime, _ in found} == {"torch", "onnxruntime"}
    assert ("onnxruntime", "body") in found
    has_native = ("onnxruntime", "native") in found
    assert has_native != any("native library" in note for note in data["notes"])
    assert "onnxruntime 1." in data["versions"]


def test_model(bench: Callable[..., dict[str, Any]]) -> None:
    options = ("--passes", "forward", "training", "--runtime", "torch", "onnxruntime")
    data = bench(MLP, "--budget", "0.3", "--batch", "3", "--exclude", "2", *options)
    row = data["rows"][0]
    assert (row["fabric"], row["shape"]) == (MLP, "1 of 3 layers replaced")
    assert row["dense_parameters"] == 64 * 128
    assert row["density"] <= 0.3
    assert {row["batch"] for row in data["rows"]} == {3}
    assert {row["passes"] for row in data["rows"] if row["runtime"] == "torch"} == {
        "forward",
        "training",
    }


def test_model_at_the_batch_of_its_inputs(bench: Callable[..., dict[str, Any]]) -> None:
    data = bench(MLP, "--input", "input:f32[5,64]")
    assert {row["batch"] for row in data["rows"]} == {5}


def test_model_by_a_plan(bench: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    path = str(tmp_path / "plan.json")
    assert main(["plan", MLP, "--exclude", "0", "-o", path, "-q"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benching, "planned", None)
        row = bench(MLP, "--plan", path)["rows"][0]
    assert row["dense_parameters"] == 128 * 64


def test_block_of_gpt2_is_there() -> None:
    from sparsify.demo.gpt2 import block

    model, (x,) = block()
    assert x.shape == (8, 128, 768)
    plan = sp.plan(model, (x[:1, :2],), budget=0.1)
    assert len(plan.replaced) == 4
    assert sum(site.dense_parameters for site in plan.replaced) == 12 * 768**2


def test_wide_transformer_is_there() -> None:
    from sparsify.demo.wide import transformer

    model, (tokens,) = transformer()
    assert tokens.numel() == 2048
    plan = sp.plan(model, (tokens[:1, :2],), budget=0.1)
    assert len(plan.replaced) == 16
    assert sum(site.dense_parameters for site in plan.replaced) == 4 * 12 * 512**2


def test_tables_go_to_stdout_and_progress_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", *LAYER, "--batch", "2", "4", "--seconds", "0"]
    assert main([*arguments, "--format", "md"]) == 0
    out, err = capsys.readouterr()
    assert "| passes | mode | batch 2 | batch 4 |" in out
    assert "Slower than dense in" in out
    assert "efficiency" in err
    assert main([*arguments, "-q"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", SUITES)
def test_suites_can_be_built(name: str) -> None:
    layers = SUITES[name]
    for entry in layers:
        family, options = parse_fabric(entry.fabric)
        options = options or {"budget": parse_budget(entry.budget)}
        built = sp.fabric(family, entry.in_features, entry.out_features, **options)
        assert built.density <= 0.1
    assert len(set(layers)) == len(layers)


def test_options_from_a_file(bench: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text('in = 32\nout = 16\nbatch = [2, 3]\nmode = "strict"\n')
    rows = bench("--config", str(tmp_path / "bench.toml"))["rows"]
    assert [(row["shape"], row["batch"]) for row in rows] == [("32 -> 16", 2), ("32 -> 16", 3)]


def test_suite_is_measured(
    bench: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsify.bench.suites import Layer

    tiny = (Layer("monarch:blocks=4", 32, 32), Layer("auto", 64, 32, "0.5"))
    monkeypatch.setitem(benching.SUITES, "readme", tiny)
    rows = bench("--suite", "readme", "--batch", "2", "--mode", "warm")["rows"]
    assert [row["shape"] for row in rows] == ["32 -> 32", "64 -> 32"]


def test_help_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "--help"])
    text = capsys.readouterr().out
    for name in (*PASSES, *MODES, *RUNTIMES, *DTYPES, *SUITES):
        assert name in text


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(sp.ConfigError, match="cores"):
        Wanted(threads=(1, 3))
