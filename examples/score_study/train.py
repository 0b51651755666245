"""Training in bulk: all seeds and learning rates of one network side by side.

Networks of this size spend their time on overhead. So the parameters of all replicas lie in one
matrix (replica, parameter), a step of AdamW is a few operations on it, and the sparse stages are
scattered into small dense matrices for a batched product. `one_by_one` does the same with the
layers and optimisers that users have; lesson 5 begins by showing that the two agree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify.fabric import Branch, Fabric, GraphStage, Shuffle, Stage
from sparsify.nn import FabricLinear
from sparsify.optim import param_groups

from .tasks import Task

__all__ = ["one_by_one", "side_by_side"]

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def schedule(step: int, steps: int) -> float:
    """A short warm-up, then half a cosine down to nearly nothing."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


def side_by_side(task: Task, nets: list[nn.Sequential], width: int) -> list[list[float]]:
    """Train one network per seed at each base rate of the task.

    Args:
        task: what to learn.
        nets: the network of each seed of the task, freshly initialised; they are not changed.
        width: features of a layer.

    Returns:
        The test loss for each rate and seed; infinite where training failed.
    """
    rates, seeds = task.rates, task.seeds
    batch, (test_inputs, test_targets) = task.data(width, seeds, task.rows)
    flat = torch.stack([nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets])
    flat = flat.repeat(len(rates), 1).requires_grad_()
    share, decay = _shares(nets[0])
    rate = torch.tensor(rates).repeat_interleave(len(seeds)).unsqueeze(1) * share
    forward = _Forward(nets[0])
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    for step in range(task.steps):
        inputs, targets = (_repeat(part, len(rates)) for part in batch(step))
        loss = task.loss(forward(flat, inputs), targets).mean(1).sum()
        (gradient,) = torch.autograd.grad(loss, flat)
        with torch.no_grad():
            _adamw(flat, gradient, first, second, rate * schedule(step, task.steps), decay, step)
    with torch.no_grad():
        losses = task.loss(
            forward(flat, _repeat(test_inputs, len(rates))), _repeat(test_targets, len(rates))
        ).mean(1)
    losses = losses.nan_to_num(math.inf, math.inf)
    return losses.view(len(rates), len(seeds)).tolist()


def one_by_one(task: Task, net: nn.Sequential, width: int, seed: int, rate: float) -> float:
    """Train one network with its own layers, `sp.param_groups` and torch's AdamW."""
    batch, (test_inputs, test_targets) = task.data(width, (seed,), task.rows)
    optimiser = torch.optim.AdamW(param_groups(net, lr=rate), betas=BETAS, eps=EPSILON)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: schedule(s, task.steps))
    for step in range(task.steps):
        inputs, targets = (part[0] for part in batch(step))
        loss = task.loss(net(inputs), targets).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
    with torch.no_grad():
        return task.loss(net(test_inputs[0]), test_targets[0]).mean().item()


def _repeat(part: Tensor, times: int) -> Tensor:
    return part.repeat(times, *[1] * (part.dim() - 1))


def _shares(net: nn.Module) -> tuple[Tensor, Tensor]:
    """Learning rate and decay of every number of a network, at the base rate 1."""
    of = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in param_groups(net, lr=1.0)
        for parameter in group["params"]
    }
    pairs = [torch.tensor(of[id(p)]).expand(p.numel(), 2) for p in net.parameters()]
    share, decay = torch.cat(pairs).T.contiguous()
    return share, decay


def _adamw(
    flat: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    rate: Tensor,
    decay: Tensor,
    step: int,
) -> None:
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    scale = second.sqrt().div_(math.sqrt(1 - BETAS[1] ** (step + 1))).add_(EPSILON)
    flat.mul_(1 - rate * decay)
    flat.sub_(rate * first / scale / (1 - BETAS[0] ** (step + 1)))


class _Forward:
    """A network as a function of the numbers of all replicas."""

    def __init__(self, net: nn.Sequential) -> None:
        self.layers = list(net)
        self.plans = {i: _plan(m.fabric) for i, m in enumerate(net) if isinstance(m, FabricLinear)}

    def __call__(self, flat: Tensor, values: Tensor) -> Tensor:
        sizes = [p.numel() for layer in self.layers for p in layer.parameters()]
        pieces = iter(flat.split(sizes, 1))
        for place, layer in enumerate(self.layers):
            own = [next(pieces) for _ in layer.parameters()]
            if place in self.plans:
                # Order of a layer's parameters: its bias, which is its own, comes first.
                values = _fabric(values, own[1:], self.plans[place]) + own[0].unsqueeze(1)
            elif isinstance(layer, nn.Linear):
                weight = own[0].view(len(flat), layer.out_features, layer.in_features)
                values = torch.baddbmm(own[1].unsqueeze(1), values, weight.transpose(1, 2))
            elif isinstance(layer, nn.Embedding):
                table = own[0].reshape(-1, layer.embedding_dim)
                shift = torch.arange(len(flat)).view(-1, 1, 1) * layer.num_embeddings
                values = functional.embedding(values + shift, table)
            else:
                values = layer(values)
        return values


_Scatter = tuple[Tensor, int, int]
"""Places of a stage's weights in its transposed dense matrix, and its sides."""


def _plan(fabric: Fabric) -> list[list[_Scatter]]:
    """For each branch the dense matrices of its stages, shuffles, wrap and fold included."""
    return [list(_scatters(branch, fabric)) for branch in fabric.branches]


def _scatters(branch: Branch, fabric: Fabric) -> Iterator[_Scatter]:
    weighted = [place for place, step in enumerate(branch) if not isinstance(step, Shuffle)]
    reads, width = np.arange(branch[0].in_features) % fabric.in_features, fabric.in_features
    for place, step in enumerate(branch):
        if isinstance(step, Shuffle):
            reads = reads[step.permutation()]
            continue
        rows, columns = _edges(step)
        columns, outputs = reads[columns], step.out_features
        if place == weighted[-1]:
            order = np.arange(outputs)
            for shuffle in branch[place + 1 :]:
                assert isinstance(shuffle, Shuffle)
                order = order[shuffle.permutation()]
            rows, outputs = np.argsort(order)[rows] % fabric.out_features, fabric.out_features
        yield torch.from_numpy(columns * outputs + rows), width, outputs
        reads, width = np.arange(step.out_features), step.out_features


def _edges(step: Stage | GraphStage) -> tuple[np.ndarray, np.ndarray]:
    """Output and input of each weight, in the weights' own order."""
    if isinstance(step, GraphStage):
        neighbours = step.neighbours()
        rows = np.repeat(np.arange(step.out_features), step.degree)
        return rows, neighbours.reshape(-1)
    a, d, b, c = np.indices((step.a, step.d, step.b, step.c)).reshape(4, -1)
    return (a * step.b + b) * step.d + d, (a * step.c + c) * step.d + d


def _fabric(values: Tensor, weights: list[Tensor], plan: list[list[_Scatter]]) -> Tensor:
    """Apply a fabric; where there are more rows than features, as one dense matrix."""
    given = iter(weights)
    total: Tensor | None = None
    for branch in plan:
        dense = [_dense(next(given), *scatter) for scatter in branch]
        if values.shape[1] > values.shape[2]:
            result = functools.reduce(torch.bmm, dense)
        else:
            result = functools.reduce(torch.bmm, dense, values)
        total = result if total is None else total + result
    assert total is not None
    return torch.bmm(values, total) if values.shape[1] > values.shape[2] else total


def _dense(weight: Tensor, places: Tensor, inputs: int, outputs: int) -> Tensor:
    zeros = weight.new_zeros(len(weight), inputs * outputs)
    return zeros.scatter_add(1, places.expand(len(weight), -1), weight).view(-1, inputs, outputs)
