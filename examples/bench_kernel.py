"""How much of the arithmetic that a fabric saves becomes time saved, against the dense layer.

    python examples/bench_kernel.py --threads 1 --batch 128 1024 --json table.json

Efficiency is (dense time / fabric time) / (dense parameters / fabric parameters): 1.00 means that
all the arithmetic saved is time saved. Dense and fabric take turns in one process; times are
medians, of thread CPU time with one thread and of wall time with more. *Strict* is one call of
each in turn, so that each finds the other's data in the caches; *warm* repeats a call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sparsify.fabric import Fabric, Stage
from sparsify.ops import fabric_linear, use_kernel

FABRICS = {
    "monarch 256, 16-blocks": (Stage(16, 16, 16, 1), Stage(1, 16, 16, 16)),
    "monarch 128 to 512": (Stage(8, 16, 16, 1), Stage(1, 32, 8, 16)),
    "monarch 1024, 32-blocks": (Stage(32, 32, 32, 1), Stage(1, 32, 32, 32)),
    "monarch 4096, 64-blocks": (Stage(64, 64, 64, 1), Stage(1, 64, 64, 64)),
    "monarch 1024, 8 blocks": (Stage(8, 128, 128, 1), Stage(1, 8, 8, 128)),
    "clos 1024, r = m = 32": (Stage(32, 32, 32, 1), Stage(1, 32, 32, 32), Stage(32, 32, 32, 1)),
    "butterfly 1024, radix 4": tuple(Stage(4**i, 4, 4, 4 ** (4 - i)) for i in range(5)),
}

Call = Callable[[], object]
Clock = Callable[[], float]


class Row(NamedTuple):
    """One line of the table; times in microseconds, rates in GFLOP/s."""

    fabric: str
    batch: int
    mode: str
    passes: str
    dense_us: float
    fabric_us: float
    dense_rate: float
    fabric_rate: float
    efficiency: float


class Case(NamedTuple):
    """What is measured: a fabric, its size of batch, and how."""

    name: str
    stages: tuple[Stage, ...]
    batch: int
    mode: str


def medians(calls: list[Call], rounds: int, repeats: int, clock: Clock) -> list[float]:
    """Median seconds of each call, the calls taking turns; the first round warms up."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, found in zip(calls, times, strict=True):
            if repeats > 1:
                call()
            start = clock()
            for _ in range(repeats):
                call()
            if turn:
                found.append((clock() - start) / repeats)
    return [statistics.median(found) for found in times]


def training(layer: Callable[[], Tensor], inputs: list[Tensor], grad: Tensor) -> Call:
    """A call that runs a layer forward and backward, for the gradients of all inputs."""
    return lambda: torch.autograd.grad(layer(), inputs, grad)


def measure(case: Case, rounds: int, clock: Clock) -> Iterator[Row]:
    """Forward, then forward and backward."""
    stages = case.stages
    fabric = Fabric(stages[0].in_features, stages[-1].out_features, (stages,))
    x = torch.randn(case.batch, fabric.in_features)
    grad = torch.randn(case.batch, fabric.out_features)
    weight = torch.randn(fabric.out_features, fabric.in_features)
    factors = [torch.randn(stage.shape) for stage in stages]
    repeats = 1 if case.mode == "strict" else max(3, 4000 // (case.batch + 200))

    def dense() -> Tensor:
        return torch.nn.functional.linear(x, weight)

    def ours() -> Tensor:
        return fabric_linear(x, factors, fabric)

    with torch.no_grad():
        forward = medians([dense, ours], rounds, repeats, clock)
    for tensor in (x, weight, *factors):
        tensor.requires_grad_()
    calls = [training(dense, [x, weight], grad), training(ours, [x, *factors], grad)]
    both = medians(calls, rounds, repeats, clock)
    for passes, work, (dense_s, fabric_s) in (("forward", 2, forward), ("both", 6, both)):
        yield Row(
            *(case.name, case.batch, case.mode, passes, dense_s * 1e6, fabric_s * 1e6),
            dense_rate=work * case.batch * fabric.dense_parameters / dense_s / 1e9,
            fabric_rate=work * case.batch * fabric.parameters / fabric_s / 1e9,
            efficiency=dense_s / fabric_s * fabric.density,
        )


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 128, 1024])
    parser.add_argument("--only", default="", help="part of a fabric's name")
    parser.add_argument("--mode", choices=["strict", "warm"], nargs="+", default=["strict", "warm"])
    parser.add_argument("--kernel", help="force a kernel")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    wanted = options()
    torch.set_num_threads(wanted.threads)
    torch.manual_seed(0)
    clock = time.thread_time if wanted.threads == 1 else time.perf_counter
    forced = use_kernel(wanted.kernel) if wanted.kernel else contextlib.nullcontext()
    cases = [
        Case(name, stages, batch, mode)
        for name, stages in FABRICS.items()
        for batch in wanted.batch
        for mode in wanted.mode
        if wanted.only in name
    ]
    rows: list[Row] = []
    print(f"{'':43}{'microseconds':>19}{'GFLOP/s':>14}")
    print(f"{'fabric':25}{'batch':>5} mode   passes ", end="")
    print(f"{'dense':>9}{'fabric':>10}{'dense':>7}{'fabric':>7}{'efficiency':>12}")
    with forced:
        for case in cases:
            for row in measure(case, wanted.rounds, clock):
                rows.append(row)
                print(f"{row.fabric:25}{row.batch:>5} {row.mode:6} {row.passes:7}", end="")
                print(f"{row.dense_us:>9.0f}{row.fabric_us:>10.0f}", end="")
                print(f"{row.dense_rate:>7.1f}{row.fabric_rate:>7.1f}{row.efficiency:>12.2f}")
    if wanted.json:
        wanted.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))


if __name__ == "__main__":
    main()
