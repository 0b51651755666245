"""How long an inference takes: models in turn, so that noise of the machine meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..onnx import session

__all__ = ["in_onnxruntime", "in_torch", "medians_ms"]

_ROUNDS = 30


def medians_ms(calls: Sequence[Callable[[], Any]], rounds: int = _ROUNDS) -> list[float]:
    """Median milliseconds of each call, all called in turn after a first untimed round.

    Example:
        >>> len(medians_ms([lambda: None, lambda: None]))
        2
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken[1:]) for taken in times]


def in_torch(model: nn.Module, tokens: Tensor) -> Callable[[], Any]:
    """One inference in torch."""

    @torch.inference_mode()
    def call() -> Any:
        return model(tokens)

    return call


def in_onnxruntime(path: Path, tokens: Tensor, threads: int) -> Callable[[], Any]:
    """One inference in stock onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    runtime = session(path, sess_options=options, native=False)
    feed = {runtime.get_inputs()[0].name: tokens.numpy()}
    return lambda: runtime.run(None, feed)
