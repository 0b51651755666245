"""How long it takes to plan, convert and export real sizes, and how much memory.

Prints a table for BERT-base (plan, convert, export) and for a Llama of 7 billion parameters that is
planned without allocating a weight. Run: python examples/bench_convert.py [--no-export]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sparsify as sp


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, the seconds, and the MB of memory at the peak beyond what was held before."""
    done = threading.Event()
    before = peak = resident()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return result, seconds, (peak - before) / 1e6


def resident() -> int:
    """Memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def megabytes(tensors: Any) -> float:
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6


def row(what: str, seconds: float, memory: float, note: str = "") -> None:
    print(f"| {what} | {seconds:.1f} | {memory:,.0f} | {note} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-export", action="store_true", help="leave out the export")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

    print("| step | seconds | MB at the peak, beyond what was held | note |\n|---|---|---|---|")
    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig())
    tokens = {"input_ids": torch.ones(1, 512, dtype=torch.long)}
    plan, seconds, memory = measured(lambda: sp.plan(llama, tokens))
    row("plan, Llama 7B on meta", seconds, memory, f"{len(plan.replaced)} sites replaced")

    bert = BertForMaskedLM(BertConfig())
    inputs = {"input_ids": torch.randint(5, 1000, (2, 128))}
    largest = max(megabytes([parameter]) for parameter in bert.parameters())
    sizes = f"model {megabytes(bert.parameters()):.0f} MB, largest layer {largest:.0f} MB"
    plan, seconds, memory = measured(lambda: sp.plan(bert, inputs, budget=0.1))
    row("plan, BERT-base", seconds, memory, f"{len(plan.replaced)} sites replaced")
    sparse, seconds, memory = measured(lambda: sp.sparsify(bert, inputs, plan=plan))
    after = f"{sizes}; converted {megabytes(sparse.parameters()):.0f} MB"
    row("convert, BERT-base", seconds, memory, after)
    if not options.no_export:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "bert.onnx"
            _, seconds, memory = measured(lambda: sp.export_onnx(sparse, file, inputs))
            note = f"{file.stat().st_size / 1e6:.0f} MB, verified"
            row("export, BERT-base", seconds, memory, note)


if __name__ == "__main__":
    main()
