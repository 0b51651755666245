"""A residual convolutional network takes the noise out of scikit-learn's two sample photographs.

As FFDNet (1710.04026) does, it works at half the resolution with four times the channels. It learns
from the left of both photographs, learning rates are chosen on a strip in the middle, and it is
tested on the right.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify as sp

from .arms import ARMS, NARROW, build, weights
from .dots import draw
from .protocol import Cell, all_missing, cell_of, finals, longest, spread
from .training import body_budget, fit, narrow

__all__ = ["figure", "points", "run", "table"]

CHANNELS = 96
BLOCKS = 2  # of two convolutions each
SIDE = 32  # pixels of a patch
BATCH = 8
STEPS = 300
QUICK_STEPS = 150
NOISE = 25 / 255  # standard deviation; white is 1
STRIPS = ((0, 384), (400, 480), (496, 640))  # columns to learn, to choose rates, and to test on
SEEDS = (0, 1, 2)
BUDGET = 0.1  # share of the weights of the whole model, its dense ends included
RATES = {"dense": 0.002, NARROW: 0.008}
RATE = 0.004  # of the others, where the search begins
CLAIM = 1.01  # times the dense model's loss


class Residual(nn.Module):
    """Two convolutions around a ReLU, added to what they read."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(torch.relu(self.first(x)))
        return x + change


def run(
    arm: str, budget: float, lr: float, seed: int, steps: int, channels: int = CHANNELS
) -> dict[str, Any]:
    """Train one arm and test it.

    Args:
        arm: a name of `ARMS`.
        budget: share of the dense model's weights that the model may have.
        lr: base learning rate.
        seed: of weights, patches and noise.
        steps: of BATCH patches.
        channels: of the dense model.

    Returns:
        Mean squared errors of validation and test, the peak signal-to-noise ratio of the test, and
        the weights.
    """
    torch.manual_seed(seed)
    model = make(arm, channels, budget, seed)
    learned, validation, test = photographs()
    random = torch.Generator().manual_seed(seed)
    fit(model, lambda: error(model, crops(learned, random), random), lr, steps)
    with torch.no_grad():
        errors = [
            error(model, strip, torch.Generator().manual_seed(0)).item()
            for strip in (validation, test)
        ]
    return {
        "validation": errors[0],
        "test": errors[1],
        "decibels": -10 * math.log10(errors[1]),
        "weights": weights(model),
    }


def make(arm: str, channels: int, budget: float, seed: int) -> nn.Module:
    """The untrained model of an arm."""
    if arm == NARROW:
        channels = narrow(network, channels, budget)
    model = network(channels)
    share = body_budget(model, weights(model[2:-2]), budget)
    inputs = (torch.zeros(1, 1, SIDE, SIDE),)
    return build(arm, model, example_inputs=inputs, budget=share, seed=seed)


def network(channels: int) -> nn.Sequential:
    """Noisy pixels to their noise."""
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4, channels, 3, padding=1),
        *(Residual(channels) for _ in range(BLOCKS)),
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.PixelShuffle(2),
    )


def error(
    model: nn.Module,
    clean: Tensor,  # (images, 1, height, width)
    random: torch.Generator,
) -> Tensor:
    """Mean squared error of what is left of the noise."""
    noise = NOISE * torch.randn(clean.shape, generator=random)
    return functional.mse_loss(model(clean + noise), noise)


def crops(photos: Tensor, random: torch.Generator) -> Tensor:
    """Patches from random places, half of them mirrored."""
    _, _, height, width = photos.shape
    patches = []
    for _ in range(BATCH):
        which, row, column, mirrored = (
            int(torch.randint(most, (), generator=random))
            for most in (len(photos), height - SIDE + 1, width - SIDE + 1, 2)
        )
        patch = photos[which, :, row : row + SIDE, column : column + SIDE]
        patches.append(patch.flip(-1) if mirrored else patch)
    return torch.stack(patches)


@functools.lru_cache
def photographs() -> tuple[Tensor, ...]:
    """The strips (images, 1, rows, columns), in shades of grey from -0.5 to 0.5."""
    from sklearn.datasets import load_sample_images

    images = [torch.tensor(image) for image in load_sample_images().images]
    grey = torch.stack(images).float().mean(-1).unsqueeze(1)[:, :, :426] / 255 - 0.5
    return tuple(grey[..., start:stop] for start, stop in STRIPS)


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted, given what is known; quick: one seed."""
    return [
        point
        for seed in (SEEDS[:1] if quick else SEEDS)
        for point in all_missing(cells(quick), of_seed(found, seed), RATES, RATE, (seed,))
    ]


def of_seed(found: Sequence[sp.Trial], seed: int) -> list[sp.Trial]:
    """Each seed searches for its own rate: the best of one lets dense models of others stumble."""
    return [trial for trial in found if trial.point["seed"] == seed]


def cells(quick: bool) -> list[Cell]:
    """All arms but sums of butterflies and graphs, which are slow as convolutions."""
    arms = [arm for arm in ARMS if arm not in ("dense", "parallel butterfly", "expander")]
    small = [(arm, BUDGET) for arm in arms]
    steps = QUICK_STEPS if quick else STEPS
    return [
        {"arm": arm, "budget": budget, "steps": steps} for arm, budget in [("dense", 1.0), *small]
    ]


def table(found: Sequence[sp.Trial]) -> str:
    """Markdown: error and decibels of each arm, best first, and whether the claim holds."""
    lines = [
        "| arm | weights | error, x 1000 | PSNR, dB | error / dense | within 1 % |",
        "|---|--:|--:|--:|--:|---|",
    ]
    ends = finished(found)
    dense = ends.get(("dense", 1.0))
    for (arm, _), trials in ends.items():
        results = [trial.result for trial in trials]
        errors = spread([1000 * result["test"] for result in results])
        decibels = mean(result["decibels"] for result in results)
        ratio = verdict = ""
        if dense and trials is not dense:
            parts = ratios(trials, dense)
            ratio, verdict = spread(parts), "yes" if mean(parts) <= CLAIM else "no"
        lines.append(
            f"| {arm} | {results[0]['weights']:,} | {errors} | {decibels:.2f} | {ratio} "
            f"| {verdict} |"
        )
    return "\n".join(lines)


def finished(found: Sequence[sp.Trial]) -> dict[tuple[str, float], list[Any]]:
    """The training of each seed at its best rate, by arm and budget; dense first, then by error."""
    found = longest(found)
    cells = {(trial.point["arm"], trial.point["budget"]): cell_of(trial) for trial in found}
    ends = {
        size: [end for seed in SEEDS for end in finals(cell, of_seed(found, seed))]
        for size, cell in cells.items()
    }

    def order(size: tuple[str, float]) -> tuple[float, float]:
        return -size[1], mean(trial.result["test"] for trial in ends[size])

    return {size: ends[size] for size in sorted(filter(ends.get, ends), key=order)}


def ratios(trials: Sequence[Any], dense: Sequence[Any]) -> list[float]:
    """Error over that of the dense model, seed by seed."""
    of = {trial.point["seed"]: trial.result["test"] for trial in dense}
    both = [trial for trial in trials if trial.point["seed"] in of]
    return [trial.result["test"] / of[trial.point["seed"]] for trial in both]


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Error of each arm over that of the dense model."""
    ends = finished(found)
    dense = ends.pop(("dense", 1.0), None)
    if dense is None:
        return
    parts = {size: ratios(trials, dense) for size, trials in ends.items()}
    draw(
        {size: (mean(p), stdev(p) if len(p) > 1 else 0.0) for size, p in parts.items()},
        path,
        claim=CLAIM,
        labels=("squared error / that of dense, with its deviation over seeds", "1 % worse"),
        dense=1.0,
    )
