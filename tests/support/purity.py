"""Proof that a call leaves everything of the user's as it was (`untouched`)."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch._dynamo  # sets an environment variable when it is first imported
from torch import Tensor, nn

State = dict[str, object]  # what -> something that compares equal as long as nothing changed


@contextmanager
def untouched(*models: nn.Module) -> Iterator[None]:
    """Fail when the block changes a model or anything global.

    Args:
        models: compared by content, by mode, and by identity of modules, tensors and hooks.

    Raises:
        AssertionError: something is not as it was; the message lists what.

    Example:
        >>> with untouched(model):
        ...     sp.sparsify(model)
    """
    before = _state(models)
    yield
    after = _state(models)
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if changed:
        lines = [f"  {key}: {before.get(key)!r} -> {after.get(key)!r}" for key in changed[:20]]
        raise AssertionError(f"{len(changed)} things changed:\n" + "\n".join(lines))


def _state(models: tuple[nn.Module, ...]) -> State:
    state = _process_state()
    for position, model in enumerate(models):
        state |= {f"model {position} {key}": value for key, value in _model_state(model).items()}
    return state


def _process_state() -> State:
    root = logging.getLogger()
    return {
        "torch generator": _digest(torch.get_rng_state()),
        "cuda generators": [_digest(s) for s in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else [],
        "numpy generator": hashlib.sha256(repr(_numpy_state()).encode()).hexdigest(),
        "python generator": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": torch.get_default_device(),
        "torch grad mode": torch.is_grad_enabled(),
        "torch threads": torch.get_num_threads(),
        "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch oneDNN": torch.backends.mkldnn.enabled,
        "root logger": (root.level, root.disabled, list(root.handlers), list(root.filters)),
        "logging disabled": logging.root.manager.disable,
        "warnings filters": [repr(entry) for entry in warnings.filters],
        "warnings display": warnings.showwarning,
        "working directory": os.getcwd(),
        "environment": dict(os.environ),
        "import path": list(sys.path),
        "exception hook": sys.excepthook,
        "recursion limit": sys.getrecursionlimit(),
    }


def _numpy_state() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return (name, np.asarray(keys).tobytes(), *rest)


def _model_state(model: nn.Module) -> State:
    state: State = {}
    for name, module in model.named_modules(remove_duplicate=False):
        state[f"module {name!r}"] = (id(module), type(module), module.training, module.extra_repr())
        state[f"hooks of {name!r}"] = _hooks(module)
        state[f"attributes of {name!r}"] = sorted(vars(module))
        for kind, tensors in (("parameter", module._parameters), ("buffer", module._buffers)):
            for key, tensor in tensors.items():
                state[f"{kind} {name}.{key}"] = _tensor(tensor)
    return state


def _hooks(module: nn.Module) -> State:
    return {
        key: [(number, id(hook)) for number, hook in value.items()]
        for key, value in vars(module).items()
        if key.endswith("_hooks") and hasattr(value, "items")
    }


def _tensor(tensor: Tensor | None) -> tuple[Any, ...]:
    if tensor is None:
        return ()
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        return (id(tensor), type(tensor), tensor.requires_grad)
    grad = None if tensor.grad is None else (id(tensor.grad), _digest(tensor.grad))
    layout = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.layout)
    return (id(tensor), type(tensor), layout, tensor.requires_grad, grad, _digest(tensor))


def _digest(tensor: Tensor) -> str:
    """A hash of the content, which a meta tensor does not have."""
    if tensor.is_meta:
        return "no content"
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()
