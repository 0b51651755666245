"""Gaussian weights of variance one over the fan-in of their own row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..fabric import Fabric

__all__ = ["variance"]


def variance(fabric: Fabric, random: torch.Generator, centred: bool) -> list[Tensor]:
    """Independent normal weights that keep the variance stage by stage.

    Args:
        fabric: what to draw for.
        random: generator on the CPU.
        centred: not used; the taps of a spatial stage share the variance.

    Returns:
        One float64 tensor of `stage.shape` per stage.

    Example:
        >>> fabric = Fabric.from_json('{"in":4,"out":4,"branches":[[[1,4,4,1]]]}')
        >>> tuple(variance(fabric, torch.Generator(), True)[0].shape)
        (1, 1, 4, 4)

    Reference:
        He et al. 2015, with the actual fan-in of a sparse row in place of the dense one.
    """
    return [
        torch.randn(stage.shape, generator=random, dtype=torch.float64) / math.sqrt(stage.fan_in)
        for stage in fabric.stages
    ]
