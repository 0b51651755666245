"""The model of the demo: a byte-level transformer, with nothing in it that knows of fabrics."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Block", "ByteTransformer"]

BYTES = 256
RECENT = 4  # bytes that are mixed before the first block: small models learn much faster with it
HEAD_WIDTH = 32


class Block(nn.Module):
    """Attention and a two-layer network, each behind a norm and beside a skip.

    Args:
        width: features per position, a multiple of head_width.
        head_width: features per head.
    """

    def __init__(self, width: int, head_width: int = HEAD_WIDTH) -> None:
        """See the class."""
        super().__init__()
        self.head_width = head_width
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(
        self,
        x: Tensor,  # (batch, length, width)
    ) -> Tensor:  # (batch, length, width)
        """Look back, then think."""
        heads = self.qkv(self.norm1(x)).unflatten(2, (3, -1, self.head_width))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (batch, heads, length, head_width) each
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(seen.transpose(1, 2).flatten(2))
        change: Tensor = self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return x + change


class ByteTransformer(nn.Module):
    """Predicts the next byte.

    Args:
        width: features per position, a multiple of head_width.
        layers: number of blocks.
        length: longest input.
        head_width: features per head.

    Example:
        >>> ByteTransformer(32, 2)(torch.zeros(1, 8, dtype=torch.long)).shape
        torch.Size([1, 8, 256])
    """

    def __init__(
        self, width: int, layers: int = 2, length: int = 128, head_width: int = HEAD_WIDTH
    ) -> None:
        """See the class."""
        super().__init__()
        self.width, self.layers = width, layers
        self.tokens = nn.Embedding(BYTES, width)
        self.places = nn.Embedding(length, width)
        self.recent = nn.Conv1d(width, width, RECENT, groups=width)
        self.blocks = nn.ModuleList(Block(width, head_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(
        self,
        tokens: Tensor,  # (batch, length) int64, bytes
    ) -> Tensor:  # (batch, length, 256)
        """Scores of every next byte."""
        x = self.tokens(tokens)
        padded = functional.pad(x.transpose(1, 2), (RECENT - 1, 0))
        x = x + self.recent(padded).transpose(1, 2) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(self.norm(x))
        return scores

    def body_weights(self) -> int:
        """Weights of the blocks' matrices, which are what a fabric replaces."""
        return sum(p.numel() for p in self.blocks.parameters() if p.dim() > 1)

    def outside(self) -> list[nn.Parameter]:
        """What is not in the blocks: embeddings and head."""
        return [p for name, p in self.named_parameters() if not name.startswith("blocks.")]
