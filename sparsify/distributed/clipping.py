"""Gradients clipped by their norm, where some are DTensors and others are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..errors import ConfigError
from ..init import is_distributed

__all__ = ["clip_grad_norm_"]


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float) -> Tensor:
    """Scale gradients in place, all alike, so that the norm of them together is at most `max_norm`.

    As `torch.nn.utils.clip_grad_norm_`, which takes plain tensors, or DTensors of one mesh, and not
    both: a model that `parallelize_module` has divided has plain parameters beside DTensors, and
    one that is sharded as well has DTensors of two meshes. The result is that of one process with
    the whole model. Every rank must call it; without a process group it is torch's own.

    Args:
        parameters: such as `model.parameters()`; those without a gradient do not count.
        max_norm: above 0; infinity only measures.

    Returns:
        The norm before, over all ranks: a plain tensor.

    Raises:
        ConfigError: max_norm is no number above 0, or parameters are no tensors.

    Example:
        >>> import torch, sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
        >>> (1000 * layer(torch.ones(1, 64)).square().sum()).backward()
        >>> norm = sp.distributed.clip_grad_norm_(layer.parameters(), 1.0)
        >>> bool(norm > 1), round(sp.distributed.clip_grad_norm_(layer.parameters(), 1.0).item(), 3)
        (True, 1.0)
    """
    if not isinstance(max_norm, (int, float)) or isinstance(max_norm, bool) or not max_norm > 0:
        raise ConfigError(f"max_norm must be a number above 0, such as 1.0; got {max_norm!r}.")
    kinds: dict[Any, list[Tensor]] = {}  # by the mesh of the gradient; None: a plain tensor
    for parameter in _tensors(parameters):
        if parameter.grad is not None:
            kinds.setdefault(getattr(parameter.grad, "device_mesh", None), []).append(parameter)
    total = get_total_norm([_norm(kind) for kind in kinds.values()])
    for kind in kinds.values():
        clip_grads_with_norm_(kind, max_norm, total)
    return total


def _tensors(parameters: object) -> list[Tensor]:
    is_many = isinstance(parameters, Iterable) and not isinstance(parameters, Tensor)
    found: list[Any] = list(parameters) if is_many else [parameters]  # type: ignore[call-overload]
    for parameter in found:
        if not isinstance(parameter, Tensor):
            raise ConfigError(
                "parameters must be tensors, as model.parameters() gives them; got "
                f"{type(parameter).__name__}."
            )
    return found


def _norm(parameters: list[Tensor]) -> Tensor:
    """The norm of gradients of one kind, whole."""
    norm: Any = get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if is_distributed(norm) else norm  # type: ignore[no-any-return]
