"""Graph stages in plain torch: weights put into a dense matrix, gradients gathered from one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..fabric import GraphStage, Stage, Step
from .steps import PlainStep

__all__ = ["dense_steps", "dense_weight", "edge_weight", "places"]


def dense_steps(
    branch: Sequence[Step], weights: Sequence[Tensor]
) -> tuple[list[PlainStep], list[Tensor]]:
    """Replace each graph stage of a branch by the dense stage that computes the same.

    Args:
        branch: the steps.
        weights: one tensor per step.

    Returns:
        The steps and tensors, everything but graph stages as it was.
    """
    steps: list[PlainStep] = []
    dense = list(weights)
    for place, step in enumerate(branch):
        if isinstance(step, GraphStage):
            steps.append(Stage(1, step.out_features, step.in_features, 1, step.kernel))
            dense[place] = dense_weight(weights[place], step)
        else:
            steps.append(step)
    return steps, dense


def dense_weight(weight: Tensor, stage: GraphStage) -> Tensor:
    """Put the weights of a graph stage at their places in a matrix of zeros.

    Args:
        weight: (out_features, degree, *kernel).
        stage: the stage.

    Returns:
        (1, 1, out_features, in_features, *kernel): the weight of a stage with one full block.

    Example:
        >>> stage = GraphStage("hypercube", 2, 2, 1)
        >>> dense_weight(torch.tensor([[3.0], [4.0]]), stage)[0, 0].tolist()
        [[0.0, 3.0], [4.0, 0.0]]
    """
    zeros = weight.new_zeros((stage.out_features, stage.in_features, *stage.kernel))
    return zeros.scatter(1, places(stage, weight.device), weight)[None, None]


def edge_weight(dense: Tensor, stage: GraphStage) -> Tensor:
    """Read the entries of a matrix that lie on the edges; the transpose of `dense_weight`."""
    return dense[0, 0].gather(1, places(stage, dense.device))


def places(stage: GraphStage, device: torch.device) -> Tensor:
    """The input of each weight, int64 of `stage.shape`; not to be written to."""
    found = torch.from_numpy(_neighbours(stage))
    if device.type != "cpu":
        # Within a trace of torch's, a tensor is a stand-in that must not outlive it.
        found = _on_device(stage, device) if type(found) is Tensor else found.to(device)
    return found.reshape(*found.shape, *(1 for _ in stage.kernel)).expand(stage.shape)


@lru_cache(maxsize=1024)
def _neighbours(stage: GraphStage) -> npt.NDArray[np.int64]:
    return stage.neighbours().copy()  # torch warns of memory that is not to be written to


@lru_cache(maxsize=1024)
def _on_device(stage: GraphStage, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else no later call could keep it for its backward
        return torch.from_numpy(_neighbours(stage)).to(device)
