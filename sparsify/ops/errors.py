"""The error of an operator that is called with tensors that do not fit."""

from __future__ import annotations

from ..errors import ConfigError

__all__ = ["OperandError"]


class OperandError(ConfigError, RuntimeError):
    """A tensor has the wrong shape, dtype or device for the fabric.

    It is a RuntimeError too, because that is what torch raises for the dense layer.

    Example:
        >>> issubclass(OperandError, RuntimeError)
        True
    """
