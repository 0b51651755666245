"""What the networks of the study learn: four small tasks, each with the same data for all."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify.nn as fabrics
from sparsify.fabric import Fabric

__all__ = ["TASKS", "Batch", "Task"]

Batch = tuple[Tensor, Tensor]
"""Inputs (seeds, rows, ...) and targets (seeds, rows, ...)."""

Batches = Callable[[int], Batch]
"""Gives the batch of a step."""

Data = Callable[[int, tuple[int, ...], int], tuple[Batches, Batch]]

CONTEXT = 8
"""Bytes that a network reads before it foretells the next one."""

MODULES = """
argparse ast calendar cmd codecs configparser datetime difflib doctest enum fractions ftplib
functools heapq inspect locale mailbox optparse pathlib pickle platform pprint random shutil smtplib
statistics string subprocess tarfile tempfile textwrap threading tokenize turtle types typing uuid
zipfile
"""
"""Of the standard library; every fifth is for the test."""

VOCABULARY = 128
"""Bytes from 127 on share one number: the sources are nearly all ASCII."""


@dataclass(frozen=True)
class Task:
    """A task for networks with `layers` layers that become fabrics.

    Attributes:
        layers: how many of them.
        steps: of training.
        rows: of a mini-batch.
        seeds: of the initial weights and of the order of the data.
        rates: base learning rates to choose from.
        network: (fabric layers, their width) -> the whole network, without its loss.
        data: (width, seeds, rows) -> what gives a batch for a step, and the test data.
        loss: (outputs, targets) -> one loss per row of the batch.
    """

    layers: int
    steps: int
    rows: int
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    network: Callable[[list[nn.Module], int], nn.Sequential]
    data: Data
    loss: Callable[[Tensor, Tensor], Tensor]

    def build(self, fabric: Fabric, mate: Fabric, seed: int) -> nn.Sequential:
        """The network of a seed; the dense layers around the fabrics start alike for all."""
        width = fabric.in_features
        torch.manual_seed(seed)
        dense = self.network([nn.Identity() for _ in range(self.layers)], width)
        torch.manual_seed(1000 + seed)
        layers = [fabrics.FabricLinear(f) for f in (fabric, mate)[: self.layers]]
        return nn.Sequential(*(layers.pop(0) if isinstance(m, nn.Identity) else m for m in dense))

    def build_dense(self, width: int, seed: int) -> nn.Sequential:
        """The network that nothing was replaced in, for comparison."""
        torch.manual_seed(seed)
        return self.network([nn.Linear(width, width) for _ in range(self.layers)], width)


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean(-1)


def _nats(outputs: Tensor, targets: Tensor) -> Tensor:
    flat = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def _teacher_net(layers: list[nn.Module], width: int) -> nn.Sequential:
    return nn.Sequential(layers[0], nn.ReLU(), nn.Linear(width, 16))


def _only_fabrics(layers: list[nn.Module], width: int) -> nn.Sequential:
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def _digits_net(layers: list[nn.Module], width: int) -> nn.Sequential:
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), nn.Linear(width, 10))


def _bytes_net(layers: list[nn.Module], width: int) -> nn.Sequential:
    hidden = (layers[0], nn.ReLU(), layers[1], nn.ReLU())
    return nn.Sequential(
        nn.Embedding(VOCABULARY, width // CONTEXT),
        nn.Flatten(-2),
        *hidden,
        nn.Linear(width, VOCABULARY),
    )


def _teacher(outputs: int) -> Data:
    """Fresh normal inputs; targets from a random dense network, one per seed."""

    def data(width: int, seeds: tuple[int, ...], rows: int) -> tuple[Batches, Batch]:
        random = [torch.Generator().manual_seed(7000 + seed) for seed in seeds]
        first = torch.stack([torch.randn(width, width, generator=r) for r in random])
        last = torch.stack([torch.randn(width, outputs, generator=r) for r in random])

        def answer(x: Tensor) -> Tensor:
            hidden = torch.relu(x @ first / width**0.5) - 0.4
            targets: Tensor = hidden @ last / (0.584 * width**0.5)
            return targets

        def batch(step: int, count: int = rows) -> Batch:
            sources = [torch.Generator().manual_seed(step * 1009 + seed) for seed in seeds]
            x = torch.stack([torch.randn(count, width, generator=r) for r in sources])
            return x, answer(x)

        return batch, batch(-1 + 10**9, 4096)

    return data


def _drawn(inputs: Tensor, targets: Tensor, seeds: tuple[int, ...], rows: int) -> Batches:
    """Mini-batches of rows drawn at random, for each seed its own."""

    def batch(step: int) -> Batch:
        sources = [torch.Generator().manual_seed(step * 1009 + seed) for seed in seeds]
        picks = torch.stack([torch.randint(len(inputs), (rows,), generator=r) for r in sources])
        return inputs[picks], targets[picks]

    return batch


def _for_all(seeds: tuple[int, ...], inputs: Tensor, targets: Tensor) -> Batch:
    """The same test data for every seed."""
    count = len(seeds)
    return inputs.expand(count, *inputs.shape), targets.expand(count, *targets.shape)


def _digits(width: int, seeds: tuple[int, ...], rows: int) -> tuple[Batches, Batch]:
    from sklearn.datasets import load_digits

    images, digits = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:600], order[600:]
    batch = _drawn(images[train], digits[train], seeds, rows)
    return batch, _for_all(seeds, images[test], digits[test])


@lru_cache
def _sources() -> tuple[Batch, Batch]:
    """Windows of bytes and the next byte, of modules to learn from and of others for the test."""
    folder = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for place, name in enumerate(MODULES.split()):
        path = folder / f"{name}.py"
        if path.exists():
            text = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).long()
            windows = text.clamp(max=VOCABULARY - 1).unfold(0, CONTEXT + 1, 1)
            parts[place % 5 == 4].append(windows)
    train, test = (torch.cat(part) for part in parts)
    picks = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:8192]
    return (train[:, :-1], train[:, -1]), (test[picks, :-1], test[picks, -1])


def _bytes(width: int, seeds: tuple[int, ...], rows: int) -> tuple[Batches, Batch]:
    train, test = _sources()
    batch = _drawn(*train, seeds, rows)
    return batch, _for_all(seeds, *test)


FIVE = (0, 1, 2, 3, 4)

TASKS = {
    "teacher": Task(1, 500, 128, FIVE, (0.003, 0.01, 0.03), _teacher_net, _teacher(16), _squares),
    "digits": Task(2, 250, 64, FIVE, (0.001, 0.003, 0.01), _digits_net, _digits, _nats),
    "bytes": Task(2, 1000, 128, FIVE[:3], (0.003, 0.01, 0.03), _bytes_net, _bytes, _nats),
    "fabrics": Task(2, 500, 128, FIVE, (0.003, 0.01, 0.03), _only_fabrics, _teacher(64), _squares),
}
"""By name; "fabrics" has no dense layer at all."""
