"""Scales: what the dense layer's init gave, and how a fabric is brought to it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..fabric import Branch, Fabric, GraphStage, Shuffle

__all__ = ["balance_outputs", "dense_gain"]

DEFAULT_GAIN = 1 / math.sqrt(3)
"""What PyTorch's own init of Linear and Conv layers gives (kaiming_uniform with a = sqrt 5)."""


def dense_gain(weight: Tensor | None, fan_in: int) -> float:
    """The output's standard deviation for white input of unit variance, of a dense layer.

    Args:
        weight: its weight; None, or one on the meta device, stands for PyTorch's default init.
        fan_in: weights per output.

    Returns:
        The gain, 0 or more.

    Example:
        >>> round(dense_gain(torch.eye(4), 4), 3)
        1.0
    """
    if weight is None or weight.is_meta:
        return DEFAULT_GAIN
    norm: float = torch.linalg.vector_norm(weight.detach(), dtype=torch.float64).item()
    return norm * math.sqrt(fan_in / max(1, weight.numel()))


def balance_outputs(values: list[Tensor], fabric: Fabric, gain: float) -> None:
    """Scale the last stage of each branch, in place, so that every output has the same variance.

    The gain enters once per branch; p branches add up, so each takes 1 / sqrt(p); an output that
    folds two features takes 1 / sqrt(2) of each.
    """
    end = 0
    for branch in fabric.branches:
        end += sum(not isinstance(step, Shuffle) for step in branch)
        last = fabric.stages[end - 1]
        scale = _row_scale(branch, fabric.out_features) * (gain / math.sqrt(len(fabric.branches)))
        if isinstance(last, GraphStage):
            rows = scale
        else:
            rows = scale.reshape(last.a, last.b, last.d).permute(0, 2, 1)
        values[end - 1] *= rows.reshape(*rows.shape, *[1] * (1 + len(last.kernel)))


def _row_scale(branch: Branch, out_features: int) -> Tensor:
    position = np.arange(branch[-1].out_features) % out_features
    scale = 1 / np.sqrt(np.bincount(position, minlength=out_features))[position]
    for step in reversed(branch):
        if not isinstance(step, Shuffle):
            break
        before = np.empty_like(scale)
        before[step.permutation()] = scale
        scale = before
    return torch.from_numpy(scale)
