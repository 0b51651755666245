"""Finding a module's line in a table of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

__all__ = ["line_of"]

Line = TypeVar("Line")


def line_of(module: nn.Module, table: Mapping[str, Line]) -> Line | None:
    """What a table says of a module's class, or of the parent whose forward it has.

    Args:
        module: the module.
        table: full names of classes -> anything.

    Returns:
        The line; None where there is none, or where the module computes something of its own.

    Example:
        >>> line_of(nn.ReLU(), {"torch.nn.modules.activation.ReLU": "max(x, 0)"})
        'max(x, 0)'
    """
    if "forward" in vars(module):
        return None
    for cls in type(module).__mro__:
        line = table.get(f"{cls.__module__}.{cls.__qualname__}")
        if line is not None:
            return line if type(module).forward is vars(cls)["forward"] else None
    return None
