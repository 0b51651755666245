"""What the functions here are given, checked before anything is asked of it."""

from __future__ import annotations

from torch import nn

from ..errors import ConfigError

__all__ = ["check_model"]


def check_model(model: object) -> None:
    """Reject what is no module.

    Raises:
        ConfigError: it is something else.

    Example:
        >>> check_model(nn.Linear(2, 2))
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
