"""The time of one case: the layer that would run, on any numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..nn import FabricConv2d, FabricLinear
from .cases import Case
from .timing import clock, seconds

__all__ = ["measure"]


def measure(case: Case) -> float:
    """Seconds of one forward call of a layer, float32, with the threads that torch has now.

    Args:
        case: what to run.

    Example:
        >>> from sparsify.bench.cases import cases
        >>> measure(cases(quick=True)[0]) > 0
        True
    """
    layer, x = _layer(case).to_empty(device="cpu"), _input(case)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 0.01)  # the time does not depend on the numbers
    with torch.inference_mode():
        return seconds(lambda: layer(x), clock(torch.get_num_threads()))


def _layer(case: Case) -> nn.Module:
    """The layer without memory, so that nothing is drawn from torch's own generator."""
    site = case.site
    if case.law != "convolution":
        if site.fabric is None:
            return nn.Linear(site.in_features, site.out_features, device="meta")
        return FabricLinear(site.fabric, device="meta")
    size, stride = site.kernel[0], case.stride
    if site.fabric is not None:
        return FabricConv2d(site.fabric, size, stride, size // 2, device="meta")
    return nn.Conv2d(
        site.in_features,
        site.out_features,
        size,
        stride,
        size // 2,
        groups=site.groups,
        device="meta",
    )


def _input(case: Case) -> Tensor:
    site = case.site
    shape: tuple[int, ...] = (site.rows or 1, site.in_features)
    if case.law == "convolution":
        side = math.isqrt((site.in_rows or site.rows or 1) // case.samples)
        shape = (case.samples, site.in_features, side, side)
    return torch.ones(shape)
