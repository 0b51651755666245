"""A language model of 2,048 tokens a step, for `sparsify bench sparsify.demo.wide:transformer`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .model import BYTES, ByteTransformer

__all__ = ["transformer"]

WIDTH, LAYERS = 512, 4
BATCH, LENGTH = 16, 128


def transformer() -> tuple[nn.Module, tuple[Tensor]]:
    """The demo's model with 4 blocks of 512 features, and 16 texts of 128 bytes.

    Returns:
        The model, embeddings and head included, and its inputs.

    Example:
        >>> model, (tokens,) = transformer()
        >>> model.body_weights(), tokens.numel()
        (12582912, 2048)
    """
    random = torch.Generator().manual_seed(0)
    return ByteTransformer(WIDTH, LAYERS), (
        torch.randint(BYTES, (BATCH, LENGTH), generator=random),
    )
