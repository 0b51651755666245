"""Which fabric learns which linear map? Operators of known structure, fitted by training.

Inputs are fresh normal numbers, so nothing can be learned by heart, and the loss is the share of
the output's variance that is missed: the relative squared error of the operator. The last task has
a teacher with two sparse layers and a ReLU between them.

There is no narrow twin of a linear map but low rank; the teacher's student has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify as sp

from .arms import ARMS, NARROW, build, weights
from .protocol import Cell, cell_of, finals, longest, missing
from .training import fit, narrow

__all__ = ["OPERATORS", "figure", "points", "run", "table"]

WIDTH = 256
BATCH = 128
STEPS = 500
QUICK_STEPS = 120
TESTED = 8192  # fresh inputs
SEEDS = (0, 1, 2)
BUDGETS = (0.1, 0.25)
RATE = 0.004  # where the search begins
TIE, TINY = 0.99, 1e-4  # errors nearer than this are alike

Map = Callable[[Tensor], Tensor]


def hadamard(width: int, random: torch.Generator) -> Tensor:
    """Walsh and Hadamard's matrix: log2(width) butterflies."""
    matrix = torch.ones(1, 1)
    while len(matrix) < width:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


def fourier(width: int, random: torch.Generator) -> Tensor:
    """The discrete Fourier transform of width / 2 complex numbers, each as real and imaginary."""
    numbers = torch.arange(width // 2)
    angles = -2 * math.pi / (width // 2) * (numbers.outer(numbers) % (width // 2))
    turn = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1)
    return turn.unflatten(-1, (2, 2)).transpose(1, 2).reshape(width, width)


def fourier_reversed(width: int, random: torch.Generator) -> Tensor:
    """The same with its inputs in the order in which fast algorithms want them."""
    bits = round(math.log2(width // 2))
    order = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(width // 2)]
    return fourier(width, random).unflatten(1, (-1, 2))[:, order].flatten(1)


def permuted_blocks(width: int, random: torch.Generator) -> Tensor:
    """Orthogonal blocks of 16 on the diagonal, rows and columns shuffled."""
    blocks = [orthogonal(16, random) for _ in range(width // 16)]
    rows, columns = (torch.randperm(width, generator=random) for _ in range(2))
    return torch.block_diag(*blocks)[rows][:, columns]


def convolution(width: int, random: torch.Generator) -> Tensor:
    """A circular convolution with nine random taps."""
    taps = torch.zeros(width)
    taps[:9] = torch.randn(9, generator=random)
    return circulant(taps)


def toeplitz(width: int, random: torch.Generator) -> Tensor:
    """A random number for each diagonal."""
    numbers = torch.randn(2 * width, generator=random)
    places = torch.arange(width)
    return numbers[places.unsqueeze(1) - places + width]


def orthogonal(width: int, random: torch.Generator) -> Tensor:
    """A random rotation: no structure at all."""
    matrix: Tensor = torch.linalg.qr(torch.randn(width, width, generator=random)).Q
    return matrix


def low_rank_and_diagonal(width: int, random: torch.Generator) -> Tensor:
    """Rank width / 32 and a diagonal, each with half of the variance."""
    sides = [torch.randn(width, width // 32, generator=random) for _ in range(2)]
    low = sides[0] @ sides[1].T
    diagonal = torch.randn(width, generator=random).diag()
    return low / low.norm() + diagonal / diagonal.norm()


def circulant(taps: Tensor) -> Tensor:
    return torch.stack([taps.roll(shift) for shift in range(len(taps))])


MATRICES = {
    "Hadamard": hadamard,
    "Fourier": fourier,
    "Fourier, bits reversed": fourier_reversed,
    "shuffled blocks": permuted_blocks,
    "convolution": convolution,
    "Toeplitz": toeplitz,
    "rotation": orthogonal,
    "low rank + diagonal": low_rank_and_diagonal,
}

TEACHER = "sparse teacher"
OPERATORS = (*MATRICES, TEACHER)


def run(
    operator: str, arm: str, budget: float, lr: float, seed: int, steps: int, width: int = WIDTH
) -> dict[str, Any]:
    """Train one arm to be an operator.

    Args:
        operator: a name of `OPERATORS`.
        arm: a name of `ARMS`.
        budget: share of the dense weights that the arm may have.
        lr: base learning rate.
        seed: of the operator, the weights and the inputs.
        steps: of training.
        width: of input and output.

    Returns:
        Relative squared errors on two sets of fresh inputs, and the weights.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(1000 + seed)
    target = teacher(width, random) if operator == TEACHER else matrix(operator, width, random)
    model = make(operator, arm, width, budget, seed)

    def error(count: int) -> Tensor:
        x = torch.randn(count, width, generator=random)
        return functional.mse_loss(model(x), target(x))

    fit(model, lambda: error(BATCH), lr, steps)
    with torch.no_grad():
        validation, test = error(TESTED).item(), error(TESTED).item()
    return {"validation": validation, "test": test, "weights": weights(model)}


def matrix(operator: str, width: int, random: torch.Generator) -> Map:
    """The operator, with outputs of variance one."""
    matrix = MATRICES[operator](width, random)
    matrix = matrix * width**0.5 / matrix.norm()
    return lambda x: x @ matrix.T


def teacher(width: int, random: torch.Generator) -> Map:
    """Two layers in which each neuron reads width / 16 others; outputs of mean 0, variance 1."""
    layers = []
    for _ in range(2):
        order = torch.rand(width, width, generator=random).argsort(1)
        layer = torch.randn(width, width, generator=random) * (order < width // 16)
        layers.append(layer / layer.norm(dim=1, keepdim=True))
    mean, variance = (2 * math.pi) ** -0.5, 0.5 - 0.5 / math.pi  # of ReLU of a normal number
    return lambda x: (torch.relu(x @ layers[0].T) - mean) @ layers[1].T / variance**0.5


def make(operator: str, arm: str, width: int, budget: float, seed: int) -> nn.Module:
    """The untrained model of an arm."""
    if operator == TEACHER:
        hidden = narrow(lambda h: student(width, h), width, budget) if arm == NARROW else width
        model = student(width, hidden)
    else:
        model = nn.Sequential(nn.Linear(width, width, bias=False))
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    inputs = (torch.zeros(2, width),)
    return build(arm, model, example_inputs=inputs, budget=budget, seed=seed, include=layers)


def student(width: int, hidden: int) -> nn.Sequential:
    """Two dense layers."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted, given what is known; quick: one seed, one budget."""
    seeds = SEEDS[:1] if quick else SEEDS
    return [point for cell in cells(quick) for point in missing(cell, found, RATE, seeds)]


def cells(quick: bool) -> list[Cell]:
    """All arms on all operators; random masks stand for sparse graphs, which learn as much."""
    budgets = BUDGETS[:1] if quick else BUDGETS
    small = [
        (arm, budget) for budget in budgets for arm in ARMS if arm not in ("dense", "expander")
    ]
    return [
        {
            "operator": operator,
            "arm": arm,
            "budget": budget,
            "steps": QUICK_STEPS if quick else STEPS,
        }
        for operator in OPERATORS
        for arm, budget in [("dense", 1.0), *small]
        if arm != NARROW or operator == TEACHER
    ]


def table(found: Sequence[sp.Trial]) -> str:
    """Markdown: relative squared errors, and the place of the automatic choice among the arms."""
    parts = []
    for budget, errors in means(found).items():
        arms = [arm for arm in ARMS if any(arm in row for row in errors.values())]
        lines = [
            f"At most {budget:.0%} of the weights:",
            "",
            f"| operator | {' | '.join(arms)} | place of automatic |",
            "|---|" + "--:|" * (len(arms) + 1),
        ]
        for operator, row in errors.items():
            best = min((error for arm, error in row.items() if arm != "dense"), default=0.0)
            cells = [written(row.get(arm), 0.0 if arm == "dense" else best) for arm in arms]
            lines.append(f"| {operator} | {' | '.join(cells)} | {place(row)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def means(found: Sequence[sp.Trial]) -> dict[float, dict[str, dict[str, float]]]:
    """Mean test error over seeds by budget, operator and arm, with the dense layer in each."""
    found = longest(found)
    result: dict[float, dict[str, dict[str, float]]] = {}
    for budget in sorted({trial.point["budget"] for trial in found} - {1.0}):
        for operator in OPERATORS:
            mine = [
                trial
                for trial in found
                if trial.point["operator"] == operator and trial.point["budget"] in (budget, 1.0)
            ]
            cells = {trial.point["arm"]: cell_of(trial) for trial in mine}
            ends = {arm: finals(cells[arm], mine) for arm in ARMS if arm in cells}
            row = {
                arm: mean(trial.result["test"] for trial in trials if trial.result)
                for arm, trials in ends.items()
                if trials
            }
            if row:
                result.setdefault(budget, {})[operator] = row
    return result


def place(row: Mapping[str, float]) -> str:
    """Of the automatic choice among arms of its size; those as good as it share its place."""
    if "automatic" not in row:
        return ""
    rivals = [error for arm, error in row.items() if arm not in ("automatic", "dense")]
    better = sum(error < TIE * row["automatic"] - TINY for error in rivals)
    return f"{better + 1} of {len(rivals) + 1}"


def written(error: float | None, best: float) -> str:
    """An error, bold where no other is clearly lower."""
    if error is None:
        return ""
    text = f"{error:.3f}"
    return f"**{text}**" if TIE * error - TINY <= best else text


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Errors as colours, one panel per budget."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    budgets = means(found)
    canvas, axes = pyplot.subplots(
        1, len(budgets), figsize=(6.5 * len(budgets), 5), squeeze=False, layout="constrained"
    )
    for axis, (budget, errors) in zip(axes.flat, budgets.items(), strict=True):
        arms = [arm for arm in ARMS if any(arm in row for row in errors.values())]
        values = [[row.get(arm, math.nan) for arm in arms] for row in errors.values()]
        axis.imshow(values, vmin=0, vmax=1, cmap="viridis_r", aspect="auto")
        for y, row in enumerate(values):
            for x, error in enumerate(row):
                if not math.isnan(error):
                    colour = "white" if error > 0.5 else "black"
                    axis.text(x, y, f"{error:.2f}", color=colour, ha="center", va="center")
        axis.set_xticks(range(len(arms)), arms, rotation=35, ha="right")
        axis.set_yticks(range(len(errors)), list(errors))
        axis.set_title(f"share of the variance missed, {budget:.0%} of the weights")
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)
