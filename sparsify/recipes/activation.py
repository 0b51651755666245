"""Scales that go with an activation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

__all__ = ["gain", "tailored_slope"]

POINTS = 100  # of the quadrature of each half line: errors below 1e-6 for what torch.nn has


def gain(activation: Callable[[Tensor], Tensor]) -> float:
    """The gain after which an activation gives back unit variance.

    1 / sqrt(E f(z)^2) for standard normal z, by quadrature: for any function, not only for those
    that `torch.nn.init.calculate_gain` lists. It keeps the size of signals. Through very many
    layers gradients have to keep theirs too, and the gain at which they do may be another one: for
    tanh it is 1.

    Args:
        activation: a function of each number, such as `torch.tanh` or `nn.GELU()`.

    Returns:
        The standard deviation that the layer before the activation should give its output.

    Raises:
        ConfigError: the activation is zero or not finite on normal numbers.

    Example:
        >>> [round(gain(f), 2) for f in (torch.relu, torch.tanh, torch.nn.functional.silu)]
        [1.41, 1.59, 1.68]

    Reference:
        He et al. 2015 (ReLU).
    """
    nodes, masses = np.polynomial.legendre.leggauss(POINTS)
    half = 5 * (nodes + 1)  # 0 to 10; the two halves apart, as many functions have a kink at 0
    density = 10 * masses * np.exp(-(half**2) / 2) / math.sqrt(8 * math.pi)
    with torch.no_grad():
        values = activation(torch.from_numpy(np.concatenate([-half, half]))).numpy()
    power = float(np.concatenate([density, density]) @ values**2)
    if not (math.isfinite(power) and power > 0):
        raise ConfigError(
            f"The mean square of {activation!r} on normal numbers is {power}, and no gain makes "
            "that 1. Give a function that is finite and not zero."
        )
    return 1 / math.sqrt(power)


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
    if not 0 < similarity < 1:
        raise ConfigError(f"similarity must lie between 0 and 1; got {similarity!r}.")
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
