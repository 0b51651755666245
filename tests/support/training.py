"""A small training that any number of processes can share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn import functional

import sparsify as sp
from sparsify.init import is_distributed

__all__ = [
    "INPUTS",
    "Net",
    "batch",
    "converted",
    "dense",
    "farthest",
    "loss_of",
    "optimizer_of",
    "restore",
    "store",
    "train",
    "whole",
]

WIDTH, CLASSES, BATCH = 64, 10, 16
INPUTS = (torch.zeros(2, 3, 8, 8),)


class Block(nn.Module):
    """Norm, a fabric up, a fabric down, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Net(nn.Module):
    """Convolutions, blocks, a raw weight and a head: what becomes a fabric, and what does not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, WIDTH, 3, 2, 1)
        )
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.raw = nn.Parameter(torch.randn(WIDTH, WIDTH) / 8)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        for block in self.blocks:
            x = block(x)
        return self.head(x + functional.linear(x, self.raw))


def dense(seed: int = 0, device: str = "cpu") -> Net:
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return Net()


def converted(seed: int = 0, **options: Any) -> Net:
    return sp.sparsify(dense(seed), INPUTS, **{"budget": 0.3, **options})


def batch(step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
    """This rank's part of the batch of a step."""
    random = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 8, 8, generator=random)
    labels = torch.randint(CLASSES, (BATCH,), generator=random)
    return images.chunk(world)[rank], labels.chunk(world)[rank]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; with the usual eps of 1e-8 it would make steps of gradients that are rounding alone.

    Two halves of a batch instead of the whole moved one weight of the model by 6e-5 then.
    """
    return torch.optim.AdamW(sp.param_groups(model, lr=1e-3, weight_decay=0.1), eps=1e-6)


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(model(images), labels)


def train(
    model: nn.Module,
    rank: int = 0,
    world: int = 1,
    steps: range = range(20),
    *,
    optimizer: torch.optim.Optimizer | None = None,
    clip: float | None = None,
    after: Callable[[int], object] = lambda step: None,
) -> list[float]:
    """Train on this rank's part of each batch; the losses of the whole batches."""
    optimizer = optimizer or optimizer_of(model)
    losses = []
    for step in steps:
        loss = loss_of(model, *batch(step, rank, world))
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        mean = loss.detach().clone()
        if world > 1:
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        losses.append(mean.item())
        after(step + 1)
    return losses


def train_in_parts(
    model: nn.Module,
    rank: int,
    world: int,
    syncs: Callable[[bool], AbstractContextManager[None]],
    steps: int = 5,
) -> None:
    """Train with each batch in two parts; syncs: a context for a part, told if it is the last."""
    optimizer = optimizer_of(model)
    for step in range(steps):
        optimizer.zero_grad()
        parts = [tensor.chunk(2) for tensor in batch(step, rank, world)]
        for images, labels in zip(*parts, strict=True):
            with syncs(images is parts[0][-1]):
                (loss_of(model, images, labels) / 2).backward()
        optimizer.step()


def whole(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters, gathered, under the names that the converted model has."""
    found = {}
    for name, parameter in model.named_parameters():
        for wrapper in ("module.", "_orig_mod.", "_checkpoint_wrapped_module."):
            name = name.replace(wrapper, "")
        value: Any = parameter
        found[name] = (value.full_tensor() if is_distributed(value) else value).detach().clone()
    return found


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two sets of parameters."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def store(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, plan: sp.Plan, step: int
) -> None:
    """A checkpoint as a user of PyTorch writes it, and the plan in it."""
    weights, state = get_state_dict(model, optimizer)
    content = {"plan": plan.to_json(), "model": weights, "optimizer": state, "step": step}
    dcp.save(content, checkpoint_id=folder)


def plan_in(folder: Path) -> sp.Plan:
    content = {"plan": ""}
    dcp.load(content, checkpoint_id=folder)
    return sp.Plan.from_json(content["plan"])


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint of any number of ranks; the step where it was written."""
    weights, state = get_state_dict(model, optimizer)
    content = {"model": weights, "optimizer": state, "step": 0}
    dcp.load(content, checkpoint_id=folder)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
    )
    return content["step"]
