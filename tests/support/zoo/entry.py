"""What one model of the zoo is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Any] | tuple[Any, ...]
Maker = Callable[[], tuple[nn.Module, Inputs]]


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Args:
        make: gives the model and its example inputs, of two rows.
        dynamic: axes that may change size beside the batch, by name of the input; axis -> label.
        exports: whether a graph can hold it at all: not where Python decides on values.
    """

    make: Maker
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    exports: bool = True


def tokens(length: int = 16, rows: int = 2) -> Tensor:
    """Token numbers (rows, length), the same at every call."""
    return torch.randint(5, 200, (rows, length), generator=torch.Generator().manual_seed(0))


def noise(*shape: int) -> Tensor:
    """Normal numbers, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def image(size: int) -> Tensor:
    """Two colour images."""
    return noise(2, 3, size, size)
