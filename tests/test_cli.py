"""The command line in process: data on stdout, the rest on stderr, exit codes, files."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sparsify as sp
from sparsify.cli import main
from sparsify.command.examples import EXAMPLES
from tests.support import factories

MLP = "tests.support.factories:mlp"
VERBS = (
    *("plan", "convert", "export", "verify", "bench", "sweep", "inspect", "list", "doctor"),
    "demo",
)


class Run:
    """Runs commands and keeps what they wrote."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *arguments: object, code: int = 0) -> str:
        self.capture.readouterr()
        result = main([str(argument) for argument in arguments])
        self.out, self.err = self.capture.readouterr()
        assert result == code, self.err
        return self.out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run(capsys)


# --- help ---------------------------------------------------------------------------------------


def test_help_names_every_verb_and_exit_code(run: Run) -> None:
    text = run("--help")
    assert all(verb in text for verb in VERBS)
    assert "130 interrupted" in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_two_examples(run: Run, verb: str) -> None:
    examples = run(verb, "--help").partition("examples:\n")[2].strip().splitlines()
    assert len(examples) == len(EXAMPLES[verb]) == 2
    assert all(line.strip().startswith(f"sparsify {verb}") for line in examples)


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, time; start = time.process_time(); from sparsify.cli import main;"
        "main(['--help']); seconds = time.process_time() - start;"
        "print(seconds, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    root = Path(sp.__file__).parents[1]
    texts = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
        ).stdout.split()[-3:]
        for _ in range(3)
    ]
    assert {tuple(text[1:]) for text in texts} == {("False", "False")}
    assert min(float(text[0]) for text in texts) < 0.15


def test_version(run: Run) -> None:
    assert run("--version") == f"sparsify {sp.__version__}\n"


# --- plan ---------------------------------------------------------------------------------------


def test_plan_prints_a_table_whose_totals_hold(run: Run) -> None:
    lines = run("plan", MLP, "--budget", "0.25").splitlines()
    assert lines[0].split()[:3] == ["site", "kind", "shape"]
    kept = [line for line in lines if " keep " in line]
    assert len(kept) == 1
    assert "final head" in kept[0]
    summary = next(i for i, line in enumerate(lines) if "2 of 3 sites replaced" in line)
    assert lines[summary + 2].split()[:3] == ["shape", "chosen", "rival"]
    assert any("low_rank" in line and "rank" in line for line in lines[summary + 3 :])


def test_plan_json_is_a_plan_and_goes_back_in(run: Run, tmp_path: Path) -> None:
    text = run("plan", MLP, "--budget", "0.25", "--format", "json", "-v")
    plan = sp.Plan.from_json(text)
    assert plan == sp.plan(*factories.mlp(), budget=0.25)
    run("plan", MLP, "--budget", "0.25", "-o", "plan.json")
    assert sp.Plan.from_json((tmp_path / "plan.json").read_text()) == plan
    run("convert", MLP, "--plan", "plan.json", "-o", "m.safetensors")
    assert "sparse model" in run("inspect", "m.safetensors")
    assert "2 of 3" in run("inspect", "plan.json")


def test_markdown(run: Run) -> None:
    lines = run("plan", MLP, "--format", "md").splitlines()
    assert lines[0].startswith("| site | kind |")
    assert lines[1].startswith("| --- |")


def test_colour_only_where_asked(run: Run) -> None:
    assert "\x1b[" not in run("plan", MLP)
    assert "\x1b[" in run("list", "--color", "always")
    assert "\x1b[" not in run("list", "--color", "never")


def test_choices_reach_the_plan(run: Run) -> None:
    def plan(*options: str) -> list[Any]:
        return json.loads(run("plan", MLP, "--format", "json", *options))["sites"]

    assert "low_rank" in plan("--topology", "low_rank")[0]["fabric"]["family"]
    assert [s["decision"] for s in plan("--exclude", "0")] == ["keep", "replace", "keep"]
    assert [s["decision"] for s in plan("--include", "2")] == ["keep", "replace", "keep"]
    sites = plan("--rule", "2=monarch:blocks=4", "--rule", "re:[0]=keep")
    assert [site["decision"] for site in sites] == ["keep", "replace", "keep"]
    assert "blocks=4" in sites[1]["fabric"]["family"]


def test_a_config_file_gives_options_and_the_command_line_wins(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('budget = 0.25\nexclude = ["0"]\nformat = "json"\n')
    data = json.loads(run("plan", MLP, "--config", "r.toml"))
    assert data["budget"]["parameters"] == 0.25
    assert data["sites"][0]["decision"] == "keep"
    data = json.loads(run("plan", MLP, "--config", "r.toml", "--budget", "0.5"))
    assert data["budget"]["parameters"] == 0.5
    (tmp_path / "r.json").write_text('{"dry-run": true, "quiet": false, "log_file": "log.txt"}')
    run("convert", MLP, "--config", "r.json")
    assert (tmp_path / "log.txt").exists()


# --- the whole way ------------------------------------------------------------------------------


def test_convert_inspect_export_verify(run: Run, tmp_path: Path) -> None:
    run("convert", MLP, "-o", "m.safetensors", "--budget", "0.25", "--format", "json")
    json.loads(run.out)
    assert "wrote m.safetensors" in run.err
    facts = json.loads(run("inspect", "m.safetensors", "--format", "json"))
    assert facts["sha256"] == "ok"
    assert [row["density"] for row in facts["rows"]] == [0.25, 0.25]

    run("export", MLP, "--weights", "m.safetensors", "-o", "m.onnx")
    assert run.out.count(" ok") == 3
    assert "wrote m.onnx" in run.err
    facts = json.loads(run("inspect", "m.onnx", "--format", "json"))
    assert facts["fabrics"] == 2
    assert {row["body"] for row in facts["rows"]} == {"in the file"}

    run("verify", "m.onnx", MLP, "--weights", "m.safetensors")
    run("verify", "m.onnx", MLP, code=5)
    assert "FAILED" in run.out
    assert "differs from the model" in run.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.safetensors"]


def test_the_seed_makes_the_file(run: Run, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("convert", MLP, "-o", f"{name}.safetensors", "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    assert "2 of 3" in run("convert", MLP, "-o", "m.safetensors", "--dry-run")
    assert not list(tmp_path.iterdir())


def test_quiet_says_nothing_on_stderr(run: Run) -> None:
    run("convert", MLP, "-o", "m.safetensors", "-q")
    assert run.err == ""


def test_inputs_as_text_and_a_dense_model(run: Run) -> None:
    source = "tests.support.factories:without_inputs"
    run("export", source, "-o", "m.onnx", "--input", "f32[3,64]")
    assert "has no fabric" in run.err
    run("verify", "m.onnx", source, "--input", "input:f32[batch,64]")


def test_plain_weights_and_trusted_pickles(run: Run, tmp_path: Path) -> None:
    state = factories.mlp()[0].state_dict()
    save_file(state, tmp_path / "plain.safetensors")
    torch.save({"state_dict": state}, tmp_path / "m.pt")
    run("convert", MLP, "--weights", "plain.safetensors", "-o", "a.safetensors")
    run("convert", MLP, "--weights", "m.pt", "--trust-pickle", "-o", "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded: Any = sp.load("a.safetensors", factories.mlp()[0])
    assert torch.equal(loaded[4].weight, state["4.weight"])
    assert "plain safetensors" in run("inspect", "plain.safetensors")


def test_a_factory_in_the_current_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my_own_net.py").write_text(
        "from torch import nn\n\n"
        "def make():\n    return nn.Sequential(nn.Linear(64, 64), nn.ReLU())\n"
    )
    path = list(sys.path)
    assert "1 of 1" in run("plan", "my_own_net:make", "--budget", "0.5")
    assert sys.path == path
    sys.modules.pop("my_own_net")


def _no_network(*_: object) -> None:
    raise AssertionError("the network was used")


def test_a_transformers_folder_all_the_way(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=32,
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    assert "7 of 8" in run("plan", "bert")
    run("convert", "bert", "-o", "sparse", "--budget", "0.25")
    assert sorted(p.name for p in (tmp_path / "sparse").iterdir()) == [
        "config.json",
        "sparsify.safetensors",
    ]
    assert "_name_or_path" not in (tmp_path / "sparse" / "config.json").read_text()
    assert str(tmp_path).encode() not in (tmp_path / "sparse" / "sparsify.safetensors").read_bytes()
    run("export", "sparse", "-o", "bert.onnx")
    run("verify", "bert.onnx", "sparse")
    run("inspect", "sparse")
    run("convert", "bert", "-o", "sparse", code=6)
    run("convert", "bert", "-o", "sparse", "--force")


# --- listings -----------------------------------------------------------------------------------


def test_list_names_everything(run: Run) -> None:
    rows = json.loads(run("list", "--format", "json"))["rows"]
    assert {row["name"] for row in rows if row["kind"] == "topology"} == set(sp.topologies())


def test_list_for_a_size_keeps_the_budget(run: Run) -> None:
    rows = json.loads(run("list", "--in", 96, "--out", 160, "--budget", 0.2, "--format", "json"))[
        "rows"
    ]
    assert [row["family"] for row in rows] == ["auto", *sp.topologies()]
    assert all(row["density"] is None or row["density"] <= 0.2 for row in rows)


def test_doctor(run: Run) -> None:
    rows = json.loads(run("doctor", "--format", "json"))["rows"]
    assert {"torch", "reference"} <= {row["name"] for row in rows if row["kind"] == "kernel"}
    assert {row["name"]: row["detail"] for row in rows}["torch"] is not None


def test_doctor_shows_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert 'pip install "sparsify-fabric[hf]"' in run("doctor")


def test_doctor_sees_the_other_project(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsify.environment.version", lambda _: "1.8.0")
    assert "pip uninstall sparsify" in run("doctor")


# --- errors -------------------------------------------------------------------------------------


def test_expected_errors_are_one_line(run: Run) -> None:
    run("plan", MLP, "--topology", "monarc", code=2)
    assert run.out == ""
    assert run.err.count("\n") == 1
    assert run.err.startswith("sparsify: error: There is no topology 'monarc'")
    run("plan", MLP, "--topology", "monarc", "-v", code=2)
    assert "Traceback" in run.err


def test_a_bug_shows_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sparsify.environment.capabilities", broken)
    run("doctor", code=1)
    assert "ZeroDivisionError" in run.err
    assert "this is a bug" in run.err


def test_an_interrupt_leaves_nothing(run: Run, tmp_path: Path) -> None:
    run("convert", "tests.support.factories:interrupted", "-o", "m.safetensors", code=130)
    assert run.err == "sparsify: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_a_failed_folder_is_taken_away(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    config.architectures = ["BertModel"]
    config.save_pretrained(tmp_path / "bert")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsify.io.model.write_tensors", full)
    run("convert", "bert", "-o", "sparse", code=6)
    assert "No space left" in run.err
    assert [p.name for p in tmp_path.iterdir()] == ["bert"]


def test_the_logger_is_as_before(run: Run) -> None:
    logger = logging.getLogger("sparsify")
    before = (logger.level, list(logger.handlers), list(logging.getLogger().handlers))
    run("plan", MLP, "-v")
    assert (logger.level, list(logger.handlers), list(logging.getLogger().handlers)) == before


def test_a_closed_pipe_is_no_error() -> None:
    root = Path(sp.__file__).parents[1]
    command = (
        f"{sys.executable} -c 'from sparsify.cli import main; raise SystemExit(main([\"list\"]))'"
    )
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | true"],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
