"""How deep may a sparse network be, without norms and shortcuts?

NeuroFabric (2002.08339) has an init for sparse networks that makes very deep ones train. Here
networks of 32 to 1,024 layers of 64 features read scikit-learn's digits; every layer is a Monarch
fabric of 8 x 8 blocks, 4 times fewer weights than dense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify as sp
from sparsify.recipes import gain, mirror_, scale_residual_, tailored_slope

from .arms import NARROW, weights
from .digits import data
from .protocol import Cell, cell_of, finals, longest, missing
from .training import fit

__all__ = ["figure", "points", "run", "table"]

WIDTH = 64
NARROW_WIDTH = 32  # a dense layer with as many weights as a fabric
BUDGET = 0.25
BATCH = 128
STEPS = 150
QUICK_STEPS = 80
DEPTHS = (32, 128, 512, 1024)
SEEDS = (0, 1, 2)
INITS = ("orthogonal", "variance", "default", "masked")
TOTAL_RATE = 0.064  # divided by the depth, where the search begins: many small changes add up
DENSE_SHARE = 2  # of it where layers are dense: `sp.param_groups` gives fabrics 4 times the rate
SEARCHED = 128  # layers up to which rates are searched for
GUESS = 0.1  # accuracy of a guess

PLAIN = ("tanh", "linear", "ReLU")
REMEDIES = ("ReLU, mirrored pairs", "ReLU, scaled shortcuts", "leaky ReLU, tailored slope")
GELU = ("ReLU", REMEDIES[0])  # tried with that activation too
ACTIVATIONS = {"tanh": nn.Tanh, "linear": nn.Identity, "GELU": nn.GELU}


def run(
    net: str, arm: str, init: str, depth: int, lr: float, seed: int, steps: int
) -> dict[str, Any]:
    """Train one network on 1,200 images, test it on 397.

    Args:
        net: one of `PLAIN` or `REMEDIES`, or the latter with "GELU" for "ReLU".
        arm: "monarch", "dense" or "narrow dense".
        init: of the fabrics; "default" is PyTorch's own for each block of each factor, "masked"
            the same for dense factors of which only the blocks are left.
        depth: layers.
        lr: base learning rate.
        seed: of weights and batches.
        steps: of training.

    Returns:
        Cross-entropy of 200 validation images, accuracy on the test images, variance of the last
        layer's features at the start, weights.
    """
    torch.manual_seed(seed)
    model = make(net, arm, init, depth, seed)
    images, digits = data()
    images = (images - images.mean()) / images.std()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, validation, test = order[:1200], order[1200:1400], order[1400:]
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        signal = model[:-1](images[test]).var().item()

    def loss() -> Tensor:
        picks = train[torch.randint(len(train), (BATCH,), generator=random)]
        return functional.cross_entropy(model(images[picks]), digits[picks])

    fit(model, loss, lr, steps)
    with torch.no_grad():
        answers: Tensor = model(images)
    return {
        "validation": functional.cross_entropy(answers[validation], digits[validation]).item(),
        "accuracy": (answers[test].argmax(1) == digits[test]).double().mean().item(),
        "signal": signal,
        "weights": weights(model),
    }


class Shortcut(nn.Module):
    """Adds what a layer makes of its input to it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(), layer)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def make(net: str, arm: str, init: str, depth: int, seed: int) -> nn.Sequential:
    """The untrained network: a dense one gives class and scale, fabrics take its layers."""
    width = NARROW_WIDTH if arm == NARROW else WIDTH
    model = dense(net, depth, width)
    if arm == "monarch":
        scheme = init if init == "variance" else "orthogonal"
        model = sp.sparsify(model, topology="monarch", budget=BUDGET, init=scheme, seed=seed)
        as_pytorch(model, init)
    if net.endswith("mirrored pairs"):
        kinds = (nn.Linear, sp.nn.FabricLinear)
        mirror_([layer for layer in model[:-1] if isinstance(layer, kinds)], seed=seed)
    if net.endswith("scaled shortcuts"):
        scale_residual_(model, "*.branch.1")
    return model


def dense(net: str, depth: int, width: int) -> nn.Sequential:
    """The dense network, orthogonal at the gain of its activation."""

    def layer(inputs: int, scale: float) -> nn.Linear:
        linear = nn.Linear(inputs, width)
        nn.init.orthogonal_(linear.weight, scale)
        nn.init.zeros_(linear.bias)
        return linear

    if net.endswith("shortcuts"):
        blocks = [Shortcut(layer(width, gain(torch.relu))) for _ in range(depth - 1)]
        return nn.Sequential(layer(WIDTH, 1), *blocks, nn.ReLU(), nn.Linear(width, 10))
    activation, scale = activation_of(net, depth)
    hidden: list[nn.Module] = []
    for place in range(depth):
        hidden += [layer(width if place else WIDTH, scale), activation()]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def activation_of(net: str, depth: int) -> tuple[Callable[[], nn.Module], float]:
    """Activation and gain; tanh has its critical gain, at which gradients keep their size."""
    name = net.split(",")[0]
    if name == "leaky ReLU":
        slope = tailored_slope(depth)
        return lambda: nn.LeakyReLU(slope), gain(nn.LeakyReLU(slope))
    if name in ("tanh", "linear"):
        return ACTIVATIONS[name], 1.0
    activation = ACTIVATIONS.get(name, nn.ReLU)
    return activation, gain(activation())


@torch.no_grad()
def as_pytorch(model: nn.Module, init: str) -> None:
    """What `nn.Linear` does: uniform in +-1 / sqrt(inputs) of each block, or of a dense factor."""
    if init not in ("default", "masked"):
        return
    for layer in model.modules():
        if isinstance(layer, sp.nn.FabricLinear):
            for factor, stage in zip(layer.factors, layer.fabric.stages, strict=True):
                inputs = stage.fan_in if init == "default" else stage.in_features
                nn.init.uniform_(factor, -(inputs**-0.5), inputs**-0.5)


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """The trainings that are wanted, given what is known; quick: one rate and seed."""
    return [
        point
        for cell in cells(quick)
        for point in ([rule(cell, SEEDS[0])] if quick else trainings(cell, found))
    ]


def trainings(cell: Cell, found: Sequence[sp.Trial]) -> list[dict[str, Any]]:
    """Rates are searched for up to 128 layers, and follow from the depth beyond."""
    if is_lost(cell):
        return [rule(cell, SEEDS[0])]
    if cell["depth"] > SEARCHED:
        return [rule(cell, seed) for seed in SEEDS]
    return missing(cell, found, rule(cell, SEEDS[0])["lr"], SEEDS)


def rule(cell: Cell, seed: int) -> dict[str, Any]:
    """The training at the rate that goes with the depth."""
    share = 1 if cell["arm"] == "monarch" else DENSE_SHARE
    return {**cell, "lr": share * TOTAL_RATE / cell["depth"], "seed": seed}


def is_lost(cell: Cell) -> bool:
    """No rate helps where signals vanish, 9-fold in each layer; one is tried to show it."""
    return cell["init"] not in ("orthogonal", "variance")


def cells(quick: bool) -> list[Cell]:
    """All inits where networks are plain, and remedies for ReLU; twins beside them."""
    if quick:
        chosen = [("tanh", "monarch", init, depth) for init in INITS for depth in (32, 128)]
        chosen += [("tanh", "monarch", "orthogonal", 512)]
        chosen += [(net, "monarch", "orthogonal", 128) for net in ("ReLU", *REMEDIES)]
    else:
        chosen = [("tanh", "monarch", "orthogonal", depth) for depth in DEPTHS]
        nets = ("ReLU", *REMEDIES, "linear", *(n.replace("ReLU", "GELU") for n in GELU))
        chosen += [(net, "monarch", "orthogonal", 128) for net in nets]
        chosen += [("tanh", arm, "orthogonal", 128) for arm in ("dense", NARROW)]
        chosen += [("tanh", "monarch", init, depth) for init in INITS[1:] for depth in (32, 128)]
        chosen += [(net, NARROW, "orthogonal", 128) for net in REMEDIES]
    chosen.sort(key=lambda cell: cell[3] > SEARCHED)  # what takes minutes comes last
    steps = QUICK_STEPS if quick else STEPS
    return [
        {"net": net, "arm": arm, "init": init, "depth": depth, "steps": steps}
        for net, arm, init, depth in chosen
    ]


def rows(found: Sequence[sp.Trial]) -> dict[tuple[str, str, str], dict[int, list[float]]]:
    """(net, arm, init) -> depth -> accuracies of the seeds at the best rate."""
    found = longest(found)
    done = [cell_of(trial) for trial in found]
    result: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for cell in sorted(cells(quick=False), key=lambda cell: cell["depth"]):
        for mine in [c for c in done if c == {**cell, "steps": c["steps"]}][:1]:
            row = result.setdefault((cell["net"], cell["arm"], cell["init"]), {})
            row[cell["depth"]] = [t.result["accuracy"] for t in reported(mine, found) if t.result]
    order = [(cell["net"], cell["arm"], cell["init"]) for cell in cells(quick=False)]
    return dict(sorted(result.items(), key=lambda item: order.index(item[0])))


def reported(cell: Cell, found: Sequence[sp.Trial]) -> list[sp.Trial]:
    """The trainings at the rate that was chosen; of the deepest networks, at the one by rule."""
    if cell["depth"] <= SEARCHED:
        return finals(cell, found)
    wanted = [rule(cell, seed) for seed in SEEDS]
    return [trial for trial in found if trial.point in wanted]


def table(found: Sequence[sp.Trial]) -> str:
    """Markdown: test accuracy by depth, mean and range of the seeds."""
    lines = [
        "| network | layers | init | " + " | ".join(f"{d:,} layers" for d in DEPTHS) + " |",
        "|---|---|---|" + "--:|" * len(DEPTHS),
    ]
    for (net, arm, init), row in rows(found).items():
        marks = " | ".join(percent(row.get(depth, [])) for depth in DEPTHS)
        lines.append(f"| {net} | {arm} | {init} | {marks} |")
    return "\n".join(lines)


def percent(accuracies: Sequence[float]) -> str:
    if not accuracies:
        return ""
    text = f"{100 * fmean(accuracies):.1f}"
    if len(accuracies) > 1:
        text += f" ({100 * min(accuracies):.1f} to {100 * max(accuracies):.1f})"
    return text


def figure(found: Sequence[sp.Trial], path: Path) -> None:
    """Tanh networks of all depths by init; at 128 layers all other networks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found_rows = rows(found)
    picture, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for init in INITS:
        row = found_rows.get(("tanh", "monarch", init), {})
        means = [100 * fmean(row[depth]) for depth in row]
        axes[0].plot(list(row), means, "o-", label=f"{init} init", markersize=4)
    axes[0].set_xscale("log")
    axes[0].set_xticks(DEPTHS, [f"{depth:,}" for depth in DEPTHS])
    axes[0].minorticks_off()
    axes[0].set_xlabel("layers")
    axes[0].set_ylabel("test accuracy in %")
    axes[0].set_title("Monarch fabrics, tanh, no norm, no shortcut", fontsize=10)
    axes[0].legend(fontsize=8, loc="center right")
    bars = {
        f"{net}, {arm}" if arm != "monarch" else net: row[SEARCHED]
        for (net, arm, init), row in found_rows.items()
        if init == "orthogonal" and row.get(SEARCHED)
    }
    for place, accuracies in enumerate(bars.values()):
        axes[1].barh(place, 100 * fmean(accuracies), color="tab:blue", alpha=0.6)
        axes[1].plot([100 * a for a in accuracies], [place] * len(accuracies), "k.", markersize=4)
    axes[1].set_yticks(range(len(bars)), list(bars), fontsize=8)
    axes[1].invert_yaxis()
    axes[1].set_xlabel("test accuracy in %, a dot per seed")
    axes[1].set_title(f"{SEARCHED} layers, orthogonal init", fontsize=10)
    for axis, line in zip(axes, ("axhline", "axvline"), strict=True):
        getattr(axis, line)(100 * GUESS, color="grey", linewidth=0.8, linestyle=":")
    picture.savefig(path, dpi=110)
    pyplot.close(picture)
