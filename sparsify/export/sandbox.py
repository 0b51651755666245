"""Running a model, and torch's exporter over it, without a trace left behind."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import nn

__all__ = ["quiet", "sandbox"]

_NOISY = ("torch", "onnxscript", "onnx_ir", "transformers")


@contextmanager
def sandbox(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no noise; mode, random state, log levels, filters return.

    Args:
        model: the model that the block runs. Modes are set on the modules themselves: `train()` and
            `eval()` may be overridden by its author.

    Example:
        >>> model = nn.Dropout().train()
        >>> with sandbox(model):
        ...     inside = model.training
        >>> inside, model.training
        (False, True)
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=devices), quiet():
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch and its exporters print, warn and log from the user's screen."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    loggers += [
        logger
        for name, logger in sorted(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger)
        and logger.level != logging.NOTSET
        and name.partition(".")[0] in _NOISY
        and logger not in loggers
    ]
    levels = [logger.level for logger in loggers]
    screen = io.StringIO()  # torch prints the graph of a failed capture
    with warnings.catch_warnings(), redirect_stdout(screen), redirect_stderr(screen):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
