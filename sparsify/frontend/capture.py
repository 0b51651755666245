"""A live model becomes a program: recorded where it can be run, walked where not."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, ModelError
from ..nn import check_whole, unfolded_twin
from ..passes import Program
from .onnx.model import OnnxModel
from .raw import is_called, raw_weights
from .record import does_not_run, evaluating, record
from .walk import walk

__all__ = ["as_inputs", "capture", "own_inputs"]

logger = logging.getLogger(__name__)
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def capture(model: nn.Module, example_inputs: Any = None) -> Program:
    """Capture a live model, without touching it.

    Args:
        model: any module, on any device, meta included.
        example_inputs: a tuple of positional or a dict of keyword inputs, or a tensor. None: the
            inputs that the model itself offers (`dummy_inputs`, `example_input_array`), else the
            module walk.

    Returns:
        The program.

    Raises:
        ModelError: not a module, or one that does not run on the inputs given.
        ConfigError: inputs of another form.

    Example:
        >>> capture(nn.Linear(2, 3), (torch.zeros(4, 2),)).recorded
        True
    """
    _check_model(model)
    if isinstance(model, OnnxModel):  # its file is the graph
        return model.program(example_inputs)
    if example_inputs is not None:
        return _recorded(model, as_inputs(example_inputs))
    offered = own_inputs(model)
    if offered is not None and not _has_lazy(model):
        try:
            return _recorded(model, offered)
        except ModelError as error:
            logger.debug("the inputs that the model offers do not serve: %s", error)
    twin = unfolded_twin(model)
    return Program(twin, twin, walk(twin), folded=_folded(model, twin))


def _recorded(model: nn.Module, inputs: Inputs) -> Program:
    if _has_lazy(model):
        model = _materialised(model, inputs)
    twin = unfolded_twin(model)

    def again(other: nn.Module) -> Any:
        return record(other, inputs)

    program = Program(twin, twin, again(twin), True, _folded(model, twin), again)
    weights = raw_weights(program)
    while weights:
        twin = unfolded_twin(model, weights=weights)
        try:
            graph = again(twin)
        except ModelError as error:
            logger.debug("raw parameters cannot become layers: %s", error)
            break
        called = {name: weights[name] for name in weights if is_called(graph, name)}
        if called == weights:
            return Program(twin, twin, graph, True, model, again)
        weights = called
    return program


def _folded(model: nn.Module, twin: nn.Module) -> nn.Module | None:
    return None if twin is model else model


def _materialised(model: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy whose lazy layers have seen an input; their weights are drawn as torch draws them."""
    args, kwargs = inputs
    copied = copy.deepcopy(model)
    with evaluating(copied), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            copied(*args, **kwargs)
        except Exception as error:  # whatever the model raises
            raise does_not_run(error) from error
    return copied


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"A model is a torch.nn.Module; got {type(model).__name__}. Files are read by the "
            "command line and by sp.load."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("A TorchScript module cannot be rewritten; pass the module it came from.")
    if hasattr(model, "_orig_mod"):
        raise ModelError("This is a compiled model; pass the one given to torch.compile instead.")
    check_whole(model, "Convert the model first, on every rank, and shard what comes back.")


def _has_lazy(model: nn.Module) -> bool:
    return any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters())


def own_inputs(model: nn.Module) -> Inputs | None:
    """The example inputs that a model brings along, None where it brings none."""
    for name in ("example_input_array", "dummy_inputs"):
        offered = getattr(model, name, None)
        if offered is not None:
            return as_inputs(offered)
    return None


def as_inputs(example_inputs: Any) -> Inputs:
    """Inputs in any allowed form as (positional, keyword).

    Raises:
        ConfigError: of no allowed form.

    Example:
        >>> as_inputs({"x": 1})
        ((), {'x': 1})
    """
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    raise ConfigError(
        "example_inputs must be a tuple of positional inputs, a dict of keyword inputs or a "
        f"tensor; got {type(example_inputs).__name__}."
    )
