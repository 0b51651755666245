"""What unfolded modules are made of: linear layers over views of a parameter."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["HOOKS", "carry_hooks", "linear", "take_over"]

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""The attributes in which a module keeps the hooks that run with it."""


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer that holds these very values.

    Args:
        weight: (out, in), a parameter or a view of one; shared, not copied.
        bias: (out,) likewise, or None.

    Returns:
        The layer; its parameters require gradients where the given ones do.

    Example:
        >>> import torch
        >>> layer = linear(nn.Parameter(torch.ones(6, 2))[:3], None)
        >>> layer.out_features, layer.weight.shape
        (3, torch.Size([3, 2]))
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = parameter(weight)
    if bias is not None:
        layer.bias = parameter(bias)
    return layer


def parameter(values: Tensor) -> nn.Parameter:
    """The values as a parameter of their own; a parameter stays itself."""
    if isinstance(values, nn.Parameter):
        return values
    return nn.Parameter(values.detach(), requires_grad=values.requires_grad)


def take_over(module: nn.Module, owner: nn.Module) -> None:
    """Give a module the plain attributes of an owner: sizes, options, mode; not its parameters.

    Args:
        module: on which `nn.Module.__init__` has run.
        owner: where the attributes come from.
    """
    own = vars(module)
    for name, value in vars(owner).items():
        if name not in own and not name.startswith("_flat_weight"):
            own[name] = value
    module.training = owner.training


def carry_hooks(module: nn.Module, owner: nn.Module) -> None:
    """Register the owner's hooks with the module."""
    for name in HOOKS:
        getattr(module, name).update(getattr(owner, name))
    module._is_full_backward_hook = owner._is_full_backward_hook
