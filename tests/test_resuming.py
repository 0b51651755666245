"""Jobs that end early: checkpoints for any number of processes, a death, another life."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import Tensor

import sparsify as sp
from tests.support.paths import ROOT
from tests.support.ranks import needs_ranks, run_ranks, started
from tests.support.training import (
    INPUTS,
    converted,
    dense,
    farthest,
    optimizer_of,
    plan_in,
    restore,
    store,
    train,
    whole,
)

pytestmark = needs_ranks

CLOSE = 1e-5


def _run(
    rank: int, world: int, folder: Path, steps: range, start: str = "", end: str = "", pace: int = 0
) -> dict[str, Tensor]:
    """A job that starts anew or from a checkpoint, and writes some."""
    plan = plan_in(folder / start) if start else sp.plan(dense(), INPUTS, budget=0.3)
    model = sp.sparsify(dense(seed=7 if start else 0), INPUTS, plan=plan)
    sp.distributed.fully_shard(model)
    optimizer = optimizer_of(model)
    if start:
        assert restore(folder / start, model, optimizer) == steps.start

    def after(step: int) -> None:
        (folder / f"step-{step}-{rank}").touch()
        if step == steps.stop and end:
            store(folder / end, model, optimizer, plan, step)
        elif pace and step % pace == 0:
            store(folder / f"every-{step}", model, optimizer, plan, step)

    train(model, rank, world, steps, optimizer=optimizer, after=after)
    return whole(model)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_job_ends_where_an_uninterrupted_one_does(world: int, tmp_path: Path) -> None:
    uninterrupted = run_ranks(_run, world, tmp_path, range(20))[0]
    for trace in tmp_path.glob("step-*"):
        trace.unlink()
    with started(_run, world, tmp_path, range(10**6), "", "", 5) as ranks:
        _wait_for(tmp_path / f"step-12-{world - 1}")
        ranks.kill(world - 1)
        with pytest.raises(AssertionError, match=r"The ranks ended with \[.*-9\]"):
            ranks.wait()
    complete = {int(path.parent.name[6:]) for path in tmp_path.glob("every-*/.metadata")}
    last = max(step for step in complete if step < 20)
    assert last >= 10
    for resumed in run_ranks(_run, world, tmp_path, range(last, 20), f"every-{last}"):
        assert farthest(resumed, uninterrupted) == 0


def _wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} does not come"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("worlds", [(4, 2, 1), (1, 2, 4)], ids=str)
def test_resuming_on_another_number_of_ranks(worlds: tuple[int, ...], tmp_path: Path) -> None:
    alone = converted()
    train(alone)
    run_ranks(_run, worlds[0], tmp_path, range(7), "", "first")
    run_ranks(_run, worlds[1], tmp_path, range(7, 14), "first", "second")
    resumed = run_ranks(_run, worlds[2], tmp_path, range(14, 20), "second")[0]
    assert farthest(resumed, whole(alone)) <= CLOSE


# --- the example ---------------------------------------------------------------------------------


def _torchrun(folder: Path, *arguments: str) -> str:
    """The output of the lesson on two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "1"]
    command += [str(ROOT / "examples" / "09_torchrun.py"), "--out", str(folder), *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # see the lesson
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("--fsdp",)], ids=["ddp", "fsdp"])
def test_torchrun_example(mode: tuple[str, ...], tmp_path: Path) -> None:
    for stray in ("step-old", "step-150"):  # what somebody put there, and what is torn
        (tmp_path / "killed" / stray).mkdir(parents=True)
        (tmp_path / "killed" / stray / ".metadata").touch()
    quiet = _torchrun(tmp_path / "quiet", *mode)
    killed = _torchrun(tmp_path / "killed", *mode, "--kill-at", "70")
    assert "resumed" not in quiet
    assert "resumed at step 50" in killed
    assert quiet.splitlines()[-1] == killed.splitlines()[-1]
    share = float(quiet.splitlines()[-1].split("%")[0].split()[-1])
    assert share > 85
    saved = [path / "model.safetensors" for path in (tmp_path / "quiet", tmp_path / "killed")]
    assert saved[0].read_bytes() == saved[1].read_bytes()


def test_the_example_wants_torchrun(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    command = [sys.executable, str(ROOT / "examples" / "09_torchrun.py"), "--out", str(tmp_path)]
    done = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: run it with torchrun --nproc-per-node 2 examples/09_torchrun.py\n"
    )
