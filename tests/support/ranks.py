"""Processes of one training job on this machine: started, watched, killed.

Ranks talk by gloo over the loopback device and meet at a file, so that jobs of parallel test runs
have no port to fight for. They are forked from one server that has imported torch already.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

__all__ = ["Ranks", "message_of", "needs_ranks", "run_ranks", "started"]

needs_ranks = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="ranks are forked, and named Linux's loopback"
)

_METHOD = "forkserver"
_PRELOADED = [  # what conversion and training import when they first need it
    "scipy.optimize",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "sparsify.api",
    __name__,
]


def message_of(call: Callable[[], Any]) -> str:
    """The type and text of what a call raises, for a rank to hand back; "" of nothing."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Ranks:
    """The processes of one job.

    Args:
        processes: one per rank, running.
        folder: where they leave results and tracebacks.
        seconds: after which `wait` gives up.
    """

    def __init__(self, processes: list[Any], folder: Path, seconds: float) -> None:
        self.processes = processes
        self.folder = folder
        self.deadline = time.monotonic() + seconds

    def kill(self, rank: int) -> None:
        """End a rank at once, as the system does when memory runs out."""
        self.processes[rank].kill()
        self.processes[rank].join()
        assert self.processes[rank].exitcode == -signal.SIGKILL

    def wait(self) -> list[Any]:
        """What each rank returned.

        Raises:
            AssertionError: one failed; the message is the first traceback. The others are ended.
            TimeoutError: they take too long; they are ended.
        """
        while any(process.is_alive() for process in self.processes):
            if any(process.exitcode for process in self.processes):
                self.end()
            elif time.monotonic() > self.deadline:
                self.end()
                raise TimeoutError(f"The ranks take too long. {self._first_traceback()}")
            time.sleep(0.02)
        codes = [process.exitcode for process in self.processes]
        if any(codes):
            raise AssertionError(f"The ranks ended with {codes}. {self._first_traceback()}")
        return [
            pickle.loads((self.folder / f"result-{rank}").read_bytes())
            for rank in range(len(self.processes))
        ]

    def end(self) -> None:
        """Kill the ranks that are left, and reap them all."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def _first_traceback(self) -> str:
        found = sorted(self.folder.glob("error-*"), key=lambda path: path.stat().st_mtime_ns)
        return f"{found[0].name}:\n{found[0].read_text('utf-8')}" if found else ""


@contextmanager
def started(
    function: Callable[..., Any], world: int, folder: Path, *arguments: Any, seconds: float = 120
) -> Iterator[Ranks]:
    """Start a job of `world` ranks, and end what is left of it afterwards.

    Args:
        function: importable; called as function(rank, world, folder, *arguments) on each rank,
            with the process group made. What it returns is pickled.
        world: how many.
        folder: for the job's files; may serve many jobs.
        arguments: anything that can be pickled.
        seconds: after which `Ranks.wait` gives up.
    """
    own = Path(tempfile.mkdtemp(prefix="ranks-", dir=folder))
    context = multiprocessing.get_context(_METHOD)
    context.set_forkserver_preload(_PRELOADED)
    processes = [
        context.Process(target=_run, args=(own, function, rank, world, folder, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    ranks = Ranks(processes, own, seconds)
    try:
        yield ranks
    finally:
        ranks.end()


def run_ranks(
    function: Callable[..., Any], world: int, folder: Path, *arguments: Any, seconds: float = 120
) -> list[Any]:
    """Start a job as `started` does and return what each rank returned."""
    with started(function, world, folder, *arguments, seconds=seconds) as ranks:
        return ranks.wait()


def _run(
    own: Path, function: Callable[..., Any], rank: int, world: int, folder: Path, arguments: Any
) -> None:
    """One rank, in its own process."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(str(own / "store"), world),
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=60),
        )
        result = function(rank, world, folder, *arguments)
        (own / f"result-{rank}").write_bytes(pickle.dumps(result))
        dist.barrier()  # a rank that leaves early takes its connections along
        dist.destroy_process_group()
    except BaseException:
        (own / f"error-{rank}").write_text(traceback.format_exc(), "utf-8")
        sys.exit(1)
