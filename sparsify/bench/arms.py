"""What takes its turn in torch: one call of a module, forward, with gradients, or a whole step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ModelError
from ..export.inputs import Inputs
from ..optim import param_groups
from .turns import Call

__all__ = ["FORWARD", "PASSES", "Arm", "torch_arm", "weight_bytes"]

FORWARD = "forward"
PASSES = {
    FORWARD: "the output, without gradients",
    "training": "forward, and backward to the inputs and all weights",
    "step": "training, and a step of AdamW",
}
"""What a call does, in words."""


@dataclass(frozen=True)
class Arm:
    """One of those that take turns.

    Args:
        call: does the work once.
        held: bytes of its weights and, with gradients, of what forward keeps for backward.
    """

    call: Call
    held: int


def torch_arm(module: nn.Module, inputs: Inputs, passes: str) -> Arm:
    """A module in torch; whether gradients are recorded is up to where it is called.

    Args:
        module: put into evaluation mode for "forward", else into training mode.
        inputs: what it is called with.
        passes: of `PASSES`.

    Raises:
        ModelError: there is nothing in its output that has a gradient.

    Example:
        >>> layer = nn.Linear(4, 2, bias=False)
        >>> torch_arm(layer, Inputs.bind(layer, (torch.zeros(3, 4),)), "forward").held
        32
    """
    module.train(passes != FORWARD)
    if passes == FORWARD:
        call = partial(module, *inputs.args, **inputs.kwargs)
        return Arm(call, weight_bytes(module))
    inputs, wanted = _with_gradients(module, inputs)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(_noted(kept), lambda tensor: tensor):
        outputs = _differentiable(module, module(*inputs.args, **inputs.kwargs))
    held = sum(_storages([*module.parameters(), *kept]).values())
    grads = [torch.randn_like(output) for output in outputs]
    run = _training if passes == "training" else _step
    return Arm(run(module, inputs, wanted, grads), held)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of its parameters, tied ones once.

    Example:
        >>> weight_bytes(nn.Linear(4, 2, bias=False))
        32
    """
    return sum(_storages(module.parameters()).values())


def _training(module: nn.Module, inputs: Inputs, wanted: list[Tensor], grads: list[Tensor]) -> Call:
    args, kwargs = inputs.args, inputs.kwargs

    def call() -> object:
        outputs = _differentiable(module, module(*args, **kwargs))
        return torch.autograd.grad(outputs, wanted, grads, allow_unused=True)

    return call


def _step(module: nn.Module, inputs: Inputs, wanted: list[Tensor], grads: list[Tensor]) -> Call:
    """With a rate of 0, so that the numbers, and with them the time, stay as they are."""
    args, kwargs = inputs.args, inputs.kwargs
    optimiser = torch.optim.AdamW(param_groups(module, lr=1.0), fused=True)
    for group in optimiser.param_groups:
        group["lr"] = 0.0

    def call() -> object:
        for tensor in wanted:
            tensor.grad = None
        outputs = _differentiable(module, module(*args, **kwargs))
        torch.autograd.backward(outputs, grads)
        return optimiser.step()

    return call


def _with_gradients(module: nn.Module, inputs: Inputs) -> tuple[Inputs, list[Tensor]]:
    """Inputs of which the gradient is asked for as inside a network, and all that is asked."""

    def change(leaf: Any) -> Any:
        is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.detach().clone().requires_grad_() if is_float else leaf

    args, kwargs = pytree.tree_map(change, (inputs.args, inputs.kwargs))
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    parameters = [p for p in module.parameters() if p.requires_grad]
    wanted = [*(leaf for leaf in leaves if leaf.requires_grad), *parameters]
    return replace(inputs, args=args, kwargs=kwargs), wanted


def _differentiable(module: nn.Module, outputs: Any) -> list[Tensor]:
    found = [outputs] if isinstance(outputs, Tensor) else pytree.tree_leaves(outputs)
    found = [leaf for leaf in found if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not found:
        raise ModelError(f"{type(module).__name__} gives nothing that has a gradient to train by.")
    return found


def _noted(kept: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    return note


def _storages(tensors: Iterator[nn.Parameter] | list[Tensor]) -> dict[int, int]:
    """Bytes by address, so that what shares memory counts once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
