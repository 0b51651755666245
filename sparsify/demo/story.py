"""The main job from end to end: plan, convert, train, save, load, export, verify, compare."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from ..api import plan, sparsify
from ..bench.timing import use_threads
from ..errors import ConfigError
from .console import say
from .contender import Contender
from .data import Corpus, spread, standard_library
from .measure import in_onnxruntime, in_torch, medians_ms
from .model import ByteTransformer
from .result import Result
from .train import BATCH, LENGTH, OUTER_RATE

__all__ = ["run"]

WIDTH = 256
NARROW_WIDTH = 96  # the narrowest whose body has at least the fabric's weights
BUDGET = 0.125
STEPS = 400
QUICK_STEPS = 20
LEARNING_RATE = 3e-3  # of the body; from 2e-3 to 4e-3 dense gains 0.03 bits, its fabric loses 0.02
NARROW_LEARNING_RATE = 8e-3  # best of 4e-3, 8e-3, 1.4e-2


def run(
    *,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    output: str | Path | None = None,
    quick: bool = False,
) -> Result:
    """Train a dense transformer, its narrow twin and its fabric, and compare them to the end.

    The story goes to stderr, the closing table to stdout. The global random state and number of
    threads are put back.

    Args:
        steps: optimiser steps of each model, 1 or more; 400 by default, 20 with quick.
        seed: of all weights and batches.
        threads: of torch and onnxruntime, 1 or more; 1 by default, because matrices this small gain
            little from more, and lose much where another program wants the same cores.
        output: folder that keeps the saved and exported files; by default they are deleted.
        quick: go through all the motions in seconds; the losses then say nothing.

    Returns:
        Everything that was measured.

    Raises:
        ConfigError: steps or threads are out of range.
        FileError: the output cannot be written, or this Python has no sources to learn from.
        VerificationError: what was loaded or exported differs from the model.

    Example:
        >>> from sparsify.demo import run
        >>> run(quick=True).compression  # doctest: +SKIP
        8.0
    """
    if steps is None:
        steps = QUICK_STEPS if quick else STEPS
    threads = 1 if threads is None else threads
    for name, value in (("steps", steps), ("threads", threads)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number of 1 or more; got {value!r}.")
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(use_threads(threads))
        folder = Path(output or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        result = _story(steps, seed, threads, folder)
    say("Done. The table:")
    print(result)
    say(f"\n{result.verdict()}")
    return result


def _story(steps: int, seed: int, threads: int, folder: Path) -> Result:
    start = time.perf_counter()
    text = standard_library()
    say(
        f"1. Text: {text.files:,} source files of the standard library, {len(text.train):,} bytes "
        f"to learn from, {len(text.held_out):,} bytes of other files to test on.\n"
    )
    contenders = _models(seed, folder)
    _learn(contenders, text, steps, seed)
    tokens = spread(text.held_out, 2, LENGTH)[:, :-1]
    error = _carry_on(contenders, tokens)
    say("6. Time of one inference: one text of 128 bytes, models in turn.\n")
    torch_ms = medians_ms([in_torch(c.model, tokens[:1]) for c in contenders])
    onnx_ms = medians_ms([in_onnxruntime(c.exported, tokens[:1], threads) for c in contenders])
    times = zip(torch_ms, onnx_ms, strict=True)
    return Result(
        arms=tuple(c.arm(*pair) for c, pair in zip(contenders, times, strict=True)),
        steps=steps,
        tokens=steps * BATCH * LENGTH,
        seed=seed,
        threads=threads,
        onnx_error=error,
        seconds=time.perf_counter() - start,
    )


def _models(seed: int, folder: Path) -> list[Contender]:
    dense, narrow = _transformer(WIDTH, seed), _transformer(NARROW_WIDTH, seed)
    tokens = torch.zeros(2, LENGTH, dtype=torch.long)
    recipe = plan(dense, (tokens,), budget=BUDGET)
    say(f"2. Plan: what becomes of a transformer of width {WIDTH} at a budget of {BUDGET:.1%}.\n")
    say(f"{recipe}\n")
    fabric = sparsify(dense, (tokens,), plan=recipe, seed=seed)
    say(
        f"3. Convert: the body goes from {dense.body_weights():,} to {fabric.body_weights():,} "
        f"weights. Its twin is a dense transformer of width {NARROW_WIDTH}, "
        f"with {narrow.body_weights():,}.\n"
    )
    return [
        Contender("dense", dense, LEARNING_RATE, folder),
        Contender("narrow dense", narrow, NARROW_LEARNING_RATE, folder),
        Contender("fabric", fabric, LEARNING_RATE, folder),
    ]


def _transformer(width: int, seed: int) -> ByteTransformer:
    torch.manual_seed(seed)
    return ByteTransformer(width, length=LENGTH)


def _learn(contenders: list[Contender], text: Corpus, steps: int, seed: int) -> None:
    say(
        f"4. Train each on the same {steps * BATCH * LENGTH:,} bytes ({steps} steps). Learning "
        f"rates of the body, swept\n   beforehand: {LEARNING_RATE:g} for dense, "
        f"{NARROW_LEARNING_RATE:g} for its narrow twin; the fabric has that of dense, spread\n"
        f"   over its factors by sp.param_groups. Embeddings and head of all: {OUTER_RATE:g}."
    )
    for contender in contenders:
        contender.learn(text, steps, seed)
    say()


def _carry_on(contenders: list[Contender], tokens: torch.Tensor) -> float:
    """Save, load, export and verify all; the largest error of the last."""
    for contender in contenders:
        contender.save_and_load()
    say("5. Save and load: bit-equal. Export to ONNX, verify in stock onnxruntime:\n")
    reports = [contender.export(tokens) for contender in contenders]
    say(f"{reports[-1]}\n")
    return max(d.max_abs for d in reports[-1].differences) if reports[-1] else 0.0
