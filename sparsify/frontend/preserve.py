"""Running a user's model without leaving a trace in it."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["preserved"]

_CONTAINERS = (list, dict, set, deque, OrderedDict)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Give every module its attributes back, and the random generators of the CPU their states.

    Modes, parameters, buffers, hooks, caches, counters: whatever the block binds to another value,
    and what it puts into a list, dictionary or set of a module. The contents of parameters and
    buffers are not copied.

    Args:
        model: the model that the block runs.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> with preserved(model):
        ...     model.last = model.eval()(torch.zeros(2))
        >>> model.training, hasattr(model, "last")
        (True, False)
    """
    modules = [(module, dict(vars(module))) for module in model.modules()]
    contents = [
        (value, copy.copy(value))
        for _, attributes in modules
        for value in attributes.values()
        if type(value) in _CONTAINERS
    ]
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        for module, attributes in modules:
            vars(module).clear()
            vars(module).update(attributes)
        for value, before in contents:
            _refill(value, before)


def _refill(value: Any, before: Any) -> None:
    value.clear()
    if isinstance(value, (dict, set)):
        value.update(before)
    else:
        value.extend(before)
