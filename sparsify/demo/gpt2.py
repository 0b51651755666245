"""A block of GPT-2's size, for `sparsify bench sparsify.demo.gpt2:block`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .model import Block

__all__ = ["block"]

WIDTH, HEADS = 768, 12
BATCH, LENGTH = 8, 128


def block() -> tuple[nn.Module, tuple[Tensor]]:
    """One block of the small GPT-2, and 8 texts of 128 tokens that have been embedded.

    Returns:
        The block (768 wide, 12 heads, 3072 inside) and its inputs.

    Example:
        >>> model, (x,) = block()
        >>> model(x).shape
        torch.Size([8, 128, 768])
    """
    random = torch.Generator().manual_seed(0)
    return Block(WIDTH, WIDTH // HEADS), (torch.randn(BATCH, LENGTH, WIDTH, generator=random),)
