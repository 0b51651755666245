"""A network that is 10 or 4 times smaller reads scikit-learn's digits: is it as good as dense?

ClosNets (1802.03885) says that an order of magnitude fewer weights cost no accuracy. Digits cannot
rank the arms, for a network of 2,410 weights gets 97 % of them right; but the claim can be put to
the test on them. Every image is tested in cross-validation, and so is every arm on the same images.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify as sp

from .arms import ARMS, NARROW, build, weights
from .dots import draw
from .protocol import Cell, all_missing, cell_of, finals, longest, spread
from .training import body_budget, fit, narrow

__all__ = ["figure", "points", "run", "table"]

WIDTH = 512
BATCH = 100
SMOOTHING = 0.1
STEPS = 200
QUICK_STEPS = 60
FOLDS = 6  # one is tested, the next chooses the learning rate, four are learned
SEEDS = (0, 1, 2, 3, 4)
SMALL = (NARROW, "random mask", "automatic", "low rank", "monarch", "clos", "butterfly")
BUDGETS = (0.1, 0.25)  # shares of the weights of the whole model, its dense head included
RATES = {NARROW: 0.016, "low rank": 0.016, "random mask": 0.016}
RATE = 0.008  # of the others, where the search begins
CLAIM = 0.3  # points that a smaller model may lose


def run(
    arm: str, budget: float, lr: float, seed: int, fold: int, steps: int, width: int = WIDTH
) -> dict[str, Any]:
    """Train one arm on four sixths of the images and test it on another one.

    Args:
        arm: a name of `ARMS`.
        budget: share of the dense model's weights that the model may have.
        lr: base learning rate.
        seed: of weights and batches.
        fold: the part that is tested.
        steps: of training.
        width: of the dense model's two hidden layers.

    Returns:
        Cross-entropy of validation and test, the numbers of the images that it gets wrong and how
        many there were, weights of the model.
    """
    torch.manual_seed(seed)
    model = make(arm, width, budget, seed)
    images, digits = data()
    part = parts() - fold
    train, validation, test = (part % FOLDS > 1), (part % FOLDS == 1), (part == 0)
    random = torch.Generator().manual_seed(seed)
    learned = train.nonzero().squeeze(1)

    def loss() -> Tensor:
        picks = learned[torch.randint(len(learned), (BATCH,), generator=random)]
        return cross_entropy(model(images[picks]), digits[picks])

    fit(model, loss, lr, steps)
    with torch.no_grad():
        answers: Tensor = model(images)
    return {
        "validation": cross_entropy(answers[validation], digits[validation]).item(),
        "test": cross_entropy(answers[test], digits[test]).item(),
        "wrong": (test & (answers.argmax(1) != digits)).nonzero().squeeze(1).tolist(),
        "images": int(test.sum()),
        "weights": weights(model),
    }


def make(arm: str, width: int, budget: float, seed: int) -> nn.Module:
    """The untrained model of an arm."""
    if arm == NARROW:
        width = narrow(network, width, budget)
    model = network(width)
    share = body_budget(model, weights(model[:-1]), budget)
    return build(arm, model, example_inputs=(torch.zeros(2, 64),), budget=share, seed=seed)


def network(width: int) -> nn.Sequential:
    """Pixels to digits through two hidden layers."""
    hidden = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def cross_entropy(answers: Tensor, digits: Tensor) -> Tensor:
    """With smoothed labels: else the few images that stay wrong outweigh all others."""
    return functional.cross_entropy(answers, digits, label_smoothing=SMOOTHING)


@functools.lru_cache
def data() -> tuple[Tensor, Tensor]:
    """1,797 images of 8 x 8 pixels and their digits."""
    from sklearn.datasets import load_digits

    images, digits = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    return images.float() / 8 - 1, digits


@functools.lru_cache
def parts() -> Tensor:
    """The part of each image."""
    count = len(data()[1])
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)) % FOLDS


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted, given what is known; quick: one seed, one budget."""
    seeds = SEEDS[:1] if quick else SEEDS
    return all_missing(cells(quick), found, RATES, RATE, seeds)


def cells(quick: bool) -> list[Cell]:
    """The rate is chosen anew for each part, by images that are not tested there."""
    small = [(arm, budget) for budget in (BUDGETS[:1] if quick else BUDGETS) for arm in SMALL]
    steps = QUICK_STEPS if quick else STEPS
    return [
        {"arm": arm, "budget": budget, "fold": fold, "steps": steps}
        for arm, budget in [("dense", 1.0), *small]
        for fold in range(FOLDS)
    ]


def table(found: Sequence[sp.Trial]) -> str:
    """Markdown: accuracy, points lost to the dense model, and whether the claim holds."""
    lines = [
        "| arm | weights | accuracy | points lost to dense | within 0.3 points |",
        "|---|--:|--:|--:|---|",
    ]
    arms = scores(found)
    dense = arms.get(("dense", 1.0))
    for (arm, _), score in arms.items():
        lost = verdict = ""
        if dense and score is not dense:
            loss, twice = score.lost(dense)
            lost, verdict = f"{loss:+.2f} ± {twice:.2f}", judged(loss, twice)
        accuracy = spread(score.accuracies, 2)
        lines.append(f"| {arm} | {score.weights:,} | {accuracy} | {lost} | {verdict} |")
    return "\n".join(lines)


class Score(NamedTuple):
    """What an arm reached.

    Attributes:
        weights: of the model.
        wrong: (seeds, images), one where the image was wrong.
    """

    weights: int
    wrong: Tensor

    @property
    def accuracies(self) -> list[float]:
        """In percent, by seed."""
        return [100 * (1 - share) for share in self.wrong.mean(1).tolist()]

    def lost(self, other: Score) -> tuple[float, float]:
        """Points lost to another arm, image by image, and twice the standard error of that."""
        more = 100 * (self.wrong.mean(0) - other.wrong.mean(0))
        return more.mean().item(), 2 * more.std().item() / len(more) ** 0.5


def judged(loss: float, twice: float) -> str:
    """Whether at most `CLAIM` points are lost, as far as the images can tell."""
    if abs(loss - CLAIM) < twice:
        return "probably" if loss <= CLAIM else "probably not"
    return "yes" if loss <= CLAIM else "no"


def scores(found: Sequence[sp.Trial]) -> dict[tuple[str, float], Score]:
    """By arm and budget, of those that were tested on all parts with some seed."""
    found = longest(found)
    sizes = dict.fromkeys((trial.point["arm"], trial.point["budget"]) for trial in found)
    result = {}
    for arm, budget in sorted(sizes, key=lambda size: (-size[1], list(ARMS).index(size[0]))):
        mine = [t for t in found if (t.point["arm"], t.point["budget"]) == (arm, budget)]
        folds = {trial.point["fold"]: cell_of(trial) for trial in mine}
        trials = [trial for cell in folds.values() for trial in finals(cell, mine)]
        counts = Counter(trial.point["seed"] for trial in trials)
        seeds = sorted(seed for seed, count in counts.items() if count == FOLDS)
        if seeds:
            wrong = torch.zeros(len(seeds), len(data()[1]))
            for trial in trials:
                if trial.point["seed"] in seeds:
                    wrong[seeds.index(trial.point["seed"]), trial.result["wrong"]] = 1
            result[arm, budget] = Score(trials[0].result["weights"], wrong)
    return result


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Points lost by each arm, with the range that the images leave open, and the claim."""
    arms = scores(found)
    dense = arms.pop(("dense", 1.0), None)
    if dense is None:
        return
    draw(
        {size: score.lost(dense) for size, score in arms.items()},
        path,
        dense=0.0,
        claim=CLAIM,
        labels=(
            f"points lost to dense ({mean(dense.accuracies):.2f} %), with 2 standard errors",
            "0.3 points",
        ),
    )
