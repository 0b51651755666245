"""What a dense layer multiplies its weight with, as rows: inputs of a Linear, patches of a Conv."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nn import dense
from ..nn.products import LeftLinear

__all__ = ["MOST_PATCHES", "vectors"]

MOST_PATCHES = 4096
"""Positions of a convolution that are looked at in each batch; of more, that many at even
distances."""


def vectors(module: nn.Module, x: Tensor) -> Tensor | None:
    """The rows that a call of a dense layer multiplies its weight with.

    Args:
        module: a dense layer, see `sparsify.nn.dense`.
        x: what it is called with.

    Returns:
        (groups, rows, in / groups * taps), channels major; None of a transposed convolution, whose
        outputs are sums over many inputs.

    Example:
        >>> vectors(nn.Conv1d(2, 3, 2), torch.arange(6.0).reshape(1, 2, 3))
        tensor([[[0., 1., 3., 4.],
                 [1., 2., 4., 5.]]])
    """
    layer = dense(module)
    if layer is None or layer.kind.startswith("conv_transpose"):
        return None
    if isinstance(module, LeftLinear):
        x = x.mT
    if not layer.kernel:
        return x.reshape(1, x.numel() // layer.in_features, layer.in_features)
    return _patches(module, x, len(layer.kernel), layer.groups)


def _patches(conv: Any, x: Tensor, rank: int, groups: int) -> Tensor:
    if x.dim() == rank + 1:
        x = x.unsqueeze(0)
    edges = conv._reversed_padding_repeated_twice
    if any(edges):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = functional.pad(x, edges, mode=mode)
    windows = x
    geometry = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    for axis, (taps, stride, dilation) in enumerate(geometry):
        windows = windows.unfold(2 + axis, dilation * (taps - 1) + 1, stride)[..., ::dilation]
    # (batch, channels, *positions, *taps) -> (batch, *positions, channels, *taps), a view
    windows = windows.movedim(1, 1 + rank)
    places = windows.shape[: 1 + rank]
    count = places.numel()
    wanted = torch.linspace(0, count - 1, min(count, MOST_PATCHES), device=x.device).long()
    rows = windows[torch.unravel_index(wanted, places)]  # (rows, channels, *taps)
    split = rows.reshape(len(wanted), groups, rows[0].numel() // groups)
    return split.transpose(0, 1)
