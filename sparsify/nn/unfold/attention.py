"""Attention with its projections as four layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .parts import linear, parameter, take_over

__all__ = ["MultiheadAttention", "unfold_attention"]


class MultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose projections are the layers q_proj, k_proj, v_proj, out_proj.

    Arguments, results, masks and dropout are those of the class that it stands for; its one matrix
    `in_proj_weight` can be read, not written. Made by `unfold_attention`.
    """

    q_proj: Any
    k_proj: Any
    v_proj: Any

    def __init__(self, owner: nn.MultiheadAttention) -> None:
        """Share the parameters of an attention module."""
        nn.Module.__init__(self)
        width = owner.embed_dim
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, getattr(owner, name))
        for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(place * width, (place + 1) * width)
            whole, bias = owner.in_proj_weight, owner.in_proj_bias
            weight = getattr(owner, f"{name}_weight") if whole is None else whole[rows]
            self.add_module(name, linear(weight, None if bias is None else bias[rows]))
        out = owner.out_proj
        self.out_proj = linear(parameter(out.weight), out.bias)  # type: ignore[assignment]
        take_over(self, owner)

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The three weights as one matrix, for code that reads it."""
        return torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """The three biases as one vector."""
        biases = [self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]
        return None if biases[0] is None else torch.cat(biases)

    def forward(
        self,
        query: Tensor,  # (targets, embed_dim), with a batch axis behind or, batch_first, before
        key: Tensor,  # (sources, kdim), likewise
        value: Tensor,  # (sources, vdim), likewise
        key_padding_mask: Tensor | None = None,  # (batch, sources), True or -inf: not to be seen
        need_weights: bool = True,
        attn_mask: Tensor | None = None,  # (targets, sources) or (batch * heads, targets, sources)
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; see `nn.MultiheadAttention`."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        is_batched = query.dim() == 3
        inputs = [self._batch_first(x, is_batched) for x in (query, key, value)]
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x) for layer, x in zip(layers, inputs, strict=True))
        mask = self._mask(attn_mask, key_padding_mask, q)
        k, v, mask = self._extended(k, v, mask)
        q, k, v = (self._heads(x) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            scores = scores if mask is None else scores + mask
            weights = functional.dropout(scores.softmax(-1), dropout)
            y = weights @ v
        else:
            y = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not is_batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _batch_first(self, x: Tensor, is_batched: bool) -> Tensor:
        if not is_batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.num_heads, self.head_dim))
        return heads.transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks as one that is added to the scores, (batch, heads, targets, sources)."""
        added = None
        if mask is not None:
            added = _additive(mask, q)
            # One mask for all, or one for each sample and head.
            added = added if added.dim() == 2 else added.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            hidden = _additive(padding if padding.dim() == 2 else padding.unsqueeze(0), q)
            hidden = hidden[:, None, None, :]
            added = hidden if added is None else added + hidden
        return added

    def _extended(
        self, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The sources that the module adds by itself, which every mask shows."""
        more = 0
        batch = k.shape[0]
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(batch, -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(batch, -1, -1)], 1)
            more += 1
        if self.add_zero_attn:
            k, v = (functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
            more += 1
        return k, v, mask if mask is None or not more else functional.pad(mask, (0, more))


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def unfold_attention(module: nn.Module) -> nn.Module:
    """Attention with its projections as four layers over the same parameters.

    Args:
        module: an `nn.MultiheadAttention`.

    Example:
        >>> unfolded = unfold_attention(nn.MultiheadAttention(8, 2))
        >>> [name for name, _ in unfolded.named_children()]
        ['q_proj', 'k_proj', 'v_proj', 'out_proj']
    """
    assert isinstance(module, nn.MultiheadAttention)
    return MultiheadAttention(module)
