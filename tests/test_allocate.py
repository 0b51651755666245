"""One budget over many layers, as bare numbers: never exceeded, filled, worth more where larger."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from sparsify.select.allocate import Option, allocate

Layers = list[list[tuple[float, float]]]  # (cost, value) of each option, the cheapest first


def _layers(count: int, seed: int, options: int = 16) -> Layers:
    """Layers of four sizes; options a fifth apart, with noise, worth a logarithm each."""
    rng = random.Random(seed)
    layers = []
    for _ in range(count):
        dense = rng.choice((64, 256, 1024, 4096)) ** 2
        sizes = sorted(dense * 0.9 * 1.25**-k * rng.uniform(0.9, 1) for k in range(options))
        layers.append([(size, math.sqrt(dense) * math.log(size)) for size in sizes])
    return layers


def _solve(layers: Layers, budget: float) -> tuple[float, float]:
    """What is used of the budget, and the value."""
    options = [[Option((cost / budget,), value) for cost, value in layer] for layer in layers]
    chosen = [layer[k] for layer, k in zip(layers, allocate(options), strict=True)]
    return sum(cost for cost, _ in chosen) / budget, sum(value for _, value in chosen)


def _least(layers: Layers) -> float:
    return sum(layer[0][0] for layer in layers)


def _most(layers: Layers) -> float:
    return sum(layer[-1][0] for layer in layers)


@pytest.mark.parametrize("count", [1, 2, 5, 40, 1000])
@pytest.mark.parametrize("seed", range(2))
def test_never_exceeded_and_filled(count: int, seed: int) -> None:
    layers = _layers(count, seed)
    for share in (0.0, 0.1, 0.3, 0.7, 1.0):
        budget = _least(layers) ** (1 - share) * _most(layers) ** share
        used, _ = _solve(layers, budget)
        assert used <= 1 + 1e-9
        if count >= 40:
            assert used > 0.97


@pytest.mark.parametrize("count", [1, 3, 8, 30])
@pytest.mark.parametrize("seed", range(3))
def test_more_budget_is_worth_more(count: int, seed: int) -> None:
    layers = _layers(count, seed)
    steps = 40
    budgets = [
        _least(layers) * (_most(layers) / _least(layers)) ** (k / steps) for k in range(steps)
    ]
    values = [_solve(layers, budget)[1] for budget in budgets]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(values))


@pytest.mark.parametrize("seed", range(30))
def test_nearly_the_best_of_all(seed: int) -> None:
    """Against every combination: the value is within one step of the best one."""
    layers = _layers(4, seed, options=5)
    budget = math.sqrt(_least(layers) * _most(layers))
    best = max(
        sum(value for _, value in chosen)
        for chosen in itertools.product(*layers)
        if sum(cost for cost, _ in chosen) <= budget
    )
    start = sum(layer[0][1] for layer in layers)
    steps = [b[1] - a[1] for layer in layers for a, b in itertools.pairwise(layer)]
    _, value = _solve(layers, budget)
    assert best - value <= max(steps)
    assert value - start > 0.75 * (best - start)


def test_every_limit_holds() -> None:
    rng = random.Random(0)
    for _ in range(50):
        layers = [
            [Option((0.0, 0.0), 0.0)]
            + [Option((rng.random() / 4, rng.random() / 4), rng.random()) for _ in range(5)]
            for _ in range(8)
        ]
        chosen = [layer[k] for layer, k in zip(layers, allocate(layers), strict=True)]
        totals = [sum(column) for column in zip(*(o.costs for o in chosen), strict=True)]
        assert max(totals) <= 1
        for layer, now in zip(layers, chosen, strict=True):  # nothing that fits was left out
            for option in layer:
                more = [t + a - b for t, a, b in zip(totals, option.costs, now.costs, strict=True)]
                assert option.value <= now.value + 1e-9 or max(more) > 1


def test_equal_logarithms_share_in_proportion_to_their_weight() -> None:
    """The closed form of the continuous problem: cost proportional to weight."""
    weights = (1.0, 2.0, 5.0)
    fine = [[(1.01**k, w * k * math.log(1.01)) for k in range(1200)] for w in weights]
    options = [[Option((cost / 8000,), value) for cost, value in layer] for layer in fine]
    costs = [layer[k][0] for layer, k in zip(fine, allocate(options), strict=True)]
    assert costs == pytest.approx([1000, 2000, 5000], rel=0.03)
