"""Scales that go with an activation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError

__all__ = ["gain", "tailored_slope"]

POINTS = 100  # of the quadrature of each half line: errors below 1e-6 for what torch.nn has


def gain(activation: Callable[[Tensor], Tensor]) -> float:
    """The gain of a layer that makes up for what the activation before it takes.

    1 / sqrt(E f(z)^2) for standard normal z, by quadrature: for any function, not only for those
    that `torch.nn.init.calculate_gain` lists. Dense layers are drawn with it before the model is
    converted, as a fabric takes over the scale of the dense layer's output.

    Use it for ReLU and leaky ReLU at any depth, and for others where layers are few; deep tanh
    networks want 1, as at 1.59 squared gradients grow 1.18-fold in each layer.

    Args:
        activation: a function of each number alone, such as `torch.tanh` or `nn.GELU()`.

    Returns:
        The gain, as the functions of `torch.nn.init` take it.

    Raises:
        ConfigError: the activation is no such function, or zero or not finite on normal numbers.

    Example:
        >>> [round(gain(f), 2) for f in (torch.relu, torch.tanh, torch.nn.functional.silu)]
        [1.41, 1.59, 1.68]
        >>> import sparsify as sp
        >>> layers = []
        >>> for _ in range(4):
        ...     linear = nn.Linear(256, 256)
        ...     _ = nn.init.orthogonal_(linear.weight, gain(torch.relu))
        ...     layers += [linear, nn.ReLU()]
        >>> sparse = sp.sparsify(nn.Sequential(*layers), budget=0.25)
        >>> 0.5 < sparse(torch.randn(100, 256)).square().mean().item() < 2
        True

    Reference:
        He et al. 2015 (ReLU).
    """
    nodes, masses = np.polynomial.legendre.leggauss(POINTS)
    half = 5 * (nodes + 1)  # 0 to 10; the two halves apart, as many functions have a kink at 0
    density = 10 * masses * np.exp(-(half**2) / 2) / math.sqrt(8 * math.pi)
    values = _values(activation, torch.from_numpy(np.concatenate([-half, half]))).numpy()
    power = float(np.concatenate([density, density]) @ values**2)
    if not (math.isfinite(power) and power > 0):
        raise ConfigError(
            f"The mean square of {activation!r} on normal numbers is {power}, and no gain makes "
            "that 1. Give a function that is finite and not zero."
        )
    return 1 / math.sqrt(power)


@torch.no_grad()
def _values(activation: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """What an activation makes of numbers, if it makes the same of each of them alone."""
    allowed = "a function of each number alone, such as torch.tanh or nn.GELU()"
    if isinstance(activation, type) or not callable(activation):
        raise ConfigError(f"activation must be {allowed}; got {activation!r}.")
    try:
        if isinstance(activation, nn.Module):
            activation = copy.deepcopy(activation).to("cpu", points.dtype)
        together = activation(points.clone())
        alone = [activation(point) for point in points.clone().split(1)]
    except Exception as error:
        raise ConfigError(
            f"activation must be {allowed}, on the CPU and in float64; {activation!r} fails there: "
            f"{error}"
        ) from error
    is_pointwise = isinstance(together, Tensor) and together.shape == points.shape
    if is_pointwise:
        together = together.double()
        each = torch.stack(alone).flatten().double()
        is_pointwise = torch.allclose(together, each, equal_nan=True)
    if not is_pointwise:
        raise ConfigError(
            f"activation must be {allowed}; {activation!r} mixes numbers, changes their shape or "
            "draws at random (if that is for training only, call eval() first)."
        )
    return together


def tailored_slope(depth: int, similarity: float = 0.9) -> float:
    """The negative slope of leaky ReLUs for a deep network without norms and shortcuts.

    ReLU layers make all inputs alike, so that in the end nothing can be told apart; leaky ones do
    so more slowly. With the slope a, weights of gain sqrt(2 / (1 + a^2)) and wide layers, two
    inputs of cosine c leave a layer with the cosine
    c + (1 - a)^2 / (pi (1 + a^2)) (sqrt(1 - c^2) - c acos c).
    The slope returned is the one with which `depth` layers lead from cosine 0 to `similarity`.

    Args:
        depth: layers, 1 or more.
        similarity: cosine of the outputs of two orthogonal inputs, above 0 and below 1.

    Returns:
        The slope for `nn.LeakyReLU`, 0 (plain ReLU) to 1 (linear).

    Raises:
        ConfigError: depth or similarity is out of range.

    Example:
        >>> [round(tailored_slope(depth), 2) for depth in (2, 32, 128, 1024)]
        [0.0, 0.32, 0.61, 0.85]

    Reference:
        Zhang, Botev and Martens 2022, Deep Learning without Shortcuts, arXiv 2203.08120.
    """
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise ConfigError(f"depth must be a whole number of 1 or more; got {depth!r}.")
    if not isinstance(similarity, float) or not 0 < similarity < 1:
        raise ConfigError(
            f"similarity must be a number above 0 and below 1, such as 0.9; got {similarity!r}."
        )
    low, high = 0.0, 1.0
    if _similarity(low, depth) <= similarity:
        return low
    for _ in range(50):
        middle = (low + high) / 2
        if _similarity(middle, depth) > similarity:
            low = middle
        else:
            high = middle
    return high


def _similarity(slope: float, depth: int) -> float:
    """Cosine of the outputs of a deep network for two orthogonal inputs."""
    bend = (1 - slope) ** 2 / (math.pi * (1 + slope**2))
    cosine = 0.0
    for _ in range(depth):
        cosine += bend * (math.sqrt(1 - cosine**2) - cosine * math.acos(cosine))
        cosine = min(cosine, 1.0)
    return cosine
