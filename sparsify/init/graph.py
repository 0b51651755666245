"""Nearly orthogonal weights on the edges of a graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..fabric import GraphStage

__all__ = ["nearly_orthogonal"]

_ROUNDS = 8
_MOST = 2**30  # multiply-adds of a round, two products of 800 x 800 matrices; above, no rounds
_BALANCINGS = 8


def nearly_orthogonal(stage: GraphStage, random: torch.Generator, centred: bool) -> Tensor:
    """Draw the weights of a graph stage.

    Outputs that share one input cannot be orthogonal, so a graph stage is no exact isometry. Normal
    weights are moved towards one by W + step * mask * (W - W W' W), the iteration of Newton and
    Schulz restricted to the edges: the standard deviation of the singular values of a square stage,
    about 0.5 for normal weights, falls to 0.2 to 0.4. Stages above about 800 by 800 features, where
    that would take a second each, keep their normal weights.

    At last weights are scaled so that all outputs have the same variance and all inputs have about
    the same share in it.

    Args:
        stage: what to draw for.
        random: generator on the CPU.
        centred: a spatial stage has its weights on the centre tap, all other taps zero.

    Returns:
        float64, of `stage.shape`; rows have unit length.

    Example:
        >>> stage = GraphStage("random", 8, 8, 4)
        >>> weight = nearly_orthogonal(stage, torch.Generator(), True)
        >>> torch.linalg.vector_norm(weight, dim=1).allclose(torch.ones(8, dtype=torch.float64))
        True

    Reference:
        Bjorck and Bowie 1971 (the iteration, without the mask).
    """
    places, columns = torch.from_numpy(stage.neighbours().copy()), stage.in_features
    if stage.kernel and not centred:
        places = (places[..., None] * stage.taps + torch.arange(stage.taps)).flatten(1)
        columns *= stage.taps
        return _draw(places, columns, random).reshape(stage.shape)
    weight = _draw(places, columns, random)
    if not stage.kernel:
        return weight
    spread = torch.zeros(*weight.shape, stage.taps, dtype=torch.float64)
    spread[..., stage.taps // 2] = weight
    return spread.reshape(stage.shape)


def _draw(places: Tensor, columns: int, random: torch.Generator) -> Tensor:
    """Weights at the given columns of each row, (rows, degree)."""
    weight = torch.randn(places.shape, generator=random, dtype=torch.float64)
    weight = _balanced(weight, places, columns)
    rows = places.shape[0]
    if 2 * rows * columns * min(rows, columns) > _MOST:
        return weight
    # Columns of unit length where there are more rows. Divided by a little, so that no singular
    # value starts where the iteration drives it to infinity.
    weight = weight * min(1, math.sqrt(columns / rows)) / 1.15
    step = 1 / (1 + places.shape[1] / columns)
    matrix = torch.zeros(rows, columns).scatter_(1, places, weight.float())
    mask = torch.zeros(rows, columns).scatter_(1, places, 1)
    for _ in range(_ROUNDS):
        cube = matrix @ matrix.T @ matrix if rows <= columns else matrix @ (matrix.T @ matrix)
        matrix += step * mask * (matrix - cube)
    return _balanced(matrix.gather(1, places).double(), places, columns)


def _balanced(weight: Tensor, places: Tensor, columns: int) -> Tensor:
    """Scale rows to unit length, and columns to equal length as far as that goes (Sinkhorn)."""
    for _ in range(_BALANCINGS):
        power = torch.zeros(columns, dtype=weight.dtype)
        power.index_add_(0, places.flatten(), weight.square().flatten())
        weight = weight * (places.shape[0] / columns / power).sqrt()[places]
        weight = weight / torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return weight
