"""What functions of models are given, checked before anything is asked of it."""

from __future__ import annotations

from torch import nn

from ..errors import ConfigError

__all__ = ["check_model"]


def check_model(model: object, name: str = "model") -> None:
    """Reject what is no module.

    Args:
        model: what came.
        name: of the argument, for the message.

    Raises:
        ConfigError: it is something else.

    Example:
        >>> check_model(nn.Linear(2, 2))
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{name} must be a torch.nn.Module; got {type(model).__name__}.")
