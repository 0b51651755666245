"""Digits, operators and denoiser: the small benchmarks of lesson 8."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

import sparsify as sp
from tests.support.benchmarks import module, trial

SMALL = ("digits", "operators", "denoiser")


def simulate(
    points: Callable[[list[sp.Trial]], list[dict[str, Any]]],
    result: Callable[[dict[str, Any]], dict[str, Any]],
) -> list[sp.Trial]:
    """What a benchmark trains, if every rate but 0.016 is worse by a factor for each doubling."""
    found: list[sp.Trial] = []
    for _ in range(20):
        wanted = points(found)
        if not wanted:
            return found
        for point in wanted:
            validation = 1 + abs(math.log2(point["lr"] / 0.016))
            found.append(trial(point, validation=validation, **result(point)))
    raise AssertionError("the benchmark never ends")


def made_up(name: str, worse: dict[str, float], quick: bool = False) -> list[sp.Trial]:
    """Trainings in which arms lose what is told of them; at a rate that is not best they shine."""

    def result(point: dict[str, Any]) -> dict[str, Any]:
        test = 1 + worse.get(point["arm"], 0.0) if point["lr"] == 0.016 else 0.0
        images = range(point.get("fold", 0), 1797, 6)
        wrong = [i for i in images if i % 100 < test] if test else []
        weights = 1000 if point["arm"] == "dense" else 100
        some = {"test": test, "decibels": 30.0, "weights": weights}
        return {**some, "wrong": wrong, "images": len(images)}

    benchmark = module(name)
    return simulate(lambda found: benchmark.points(found, quick), result)


def row(table: str, start: str) -> list[str]:
    """The cells of a row of a table, bold or not."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip(" *") for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("arm", ["dense", "narrow dense", "automatic", "random mask"])
def test_digits_are_learned(arm: str) -> None:
    budget = 1.0 if arm == "dense" else 0.25
    digits = module("digits")
    result = digits.run(arm, budget, lr=0.01, seed=0, fold=2, steps=40, width=128)
    assert result["test"] < 1.3  # 2.3 is knowing nothing
    assert len(result["wrong"]) < 0.2 * result["images"]
    assert 0.8 * budget * 25_856 < result["weights"] <= budget * 25_856
    assert result["images"] == (digits.parts() == 2).sum()
    assert (digits.parts()[result["wrong"]] == 2).all()


def test_images_that_are_tested_are_not_learned() -> None:
    """Their labels may be anything; those of the part that chooses the rate count there alone."""
    digits = module("digits")
    images, labels = digits.data()
    point = {"arm": "dense", "budget": 1.0, "lr": 0.01, "seed": 0, "fold": 5, "steps": 3}
    before = digits.run(**point, width=16)
    parts = digits.parts()
    for part, same in ((5, "validation"), (0, "test")):
        true = labels.clone()
        try:
            labels[parts == part] = (labels[parts == part] + 1) % 10
            after = digits.run(**point, width=16)
        finally:
            labels.copy_(true)
        assert after[same] == before[same]
        changed = "test" if same == "validation" else "validation"
        assert after[changed] != before[changed]
    assert len(images) == 1797


@pytest.mark.parametrize("name", ["Hadamard", "sparse teacher", "convolution"])
def test_operators_are_learned(name: str) -> None:
    result = module("operators").run(
        name, "automatic", budget=0.5, lr=0.02, seed=0, steps=150, width=32
    )
    assert result["test"] < {"Hadamard": 1e-3}.get(name, 0.6)  # 1 is knowing nothing
    budget = 0.5 * 32 * 32 * (2 if name == "sparse teacher" else 1)
    assert 0.7 * budget < result["weights"] <= budget


def test_what_no_arm_can_represent_is_not_learned() -> None:
    result = module("operators").run("rotation", "low rank", 0.25, 0.02, 0, steps=150, width=32)
    assert result["test"] == pytest.approx(1 - 4 / 32, abs=0.03)  # rank 4 of 32


def test_operators_are_what_they_are_called() -> None:
    operators = module("operators")

    def matrix(name: str, width: int = 64) -> np.ndarray:
        return operators.MATRICES[name](width, torch.Generator().manual_seed(0)).double().numpy()

    np.testing.assert_array_equal(matrix("Hadamard"), scipy.linalg.hadamard(64))
    numbers = np.random.default_rng(0).normal(size=64)
    spectrum = np.fft.fft(numbers.view(complex)).view(float)
    np.testing.assert_allclose(matrix("Fourier") @ numbers, spectrum, atol=1e-5)
    order = [int(f"{place:05b}"[::-1], 2) for place in range(32)]
    shuffled = numbers.view(complex)[order].view(float)
    np.testing.assert_allclose(matrix("Fourier, bits reversed") @ shuffled, spectrum, atol=1e-5)
    convolution = matrix("convolution")
    np.testing.assert_array_equal(convolution, scipy.linalg.circulant(convolution[0]).T)
    assert (np.count_nonzero(convolution, axis=1) == 9).all()
    toeplitz = matrix("Toeplitz")
    np.testing.assert_array_equal(toeplitz, scipy.linalg.toeplitz(toeplitz[:, 0], toeplitz[0]))
    blocks = matrix("shuffled blocks")
    assert (np.count_nonzero(blocks, axis=1) == 16).all()
    for rotation in (blocks, matrix("rotation")):
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(64), atol=1e-5)
    low = matrix("low rank + diagonal")
    off = low - np.diag(np.diag(low))
    assert np.linalg.norm(off) == pytest.approx(1, rel=0.1)  # nearly all of the part of low rank
    assert np.linalg.matrix_rank(off[:32, 32:], tol=1e-6) == 2  # where there is no diagonal


@pytest.mark.parametrize("name", ["Hadamard", "Toeplitz", "low rank + diagonal", "sparse teacher"])
def test_outputs_of_operators_have_mean_0_and_variance_1(name: str) -> None:
    operators = module("operators")
    random = torch.Generator().manual_seed(0)
    make = operators.teacher if name == "sparse teacher" else None
    target = make(64, random) if make else operators.matrix(name, 64, random)
    outputs = target(torch.randn(20_000, 64, generator=random))
    assert abs(outputs.mean().item()) < 0.05
    assert outputs.square().mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("arm", ["dense", "narrow dense", "automatic", "random mask"])
def test_noise_is_taken_out(arm: str) -> None:
    budget = 1.0 if arm == "dense" else 0.25
    result = module("denoiser").run(arm, budget, lr=0.004, seed=0, steps=40, channels=32)
    assert result["test"] < 0.7 * (25 / 255) ** 2  # which is doing nothing
    assert result["decibels"] == pytest.approx(-10 * math.log10(result["test"]))
    assert 0.8 * budget * 39_168 < result["weights"] <= budget * 39_168


def test_photographs_are_cut_into_strips_that_are_apart() -> None:
    denoiser = module("denoiser")
    (_, first), (start, stop), (last, end) = denoiser.STRIPS
    blind = 2 * (2 + 2 * denoiser.BLOCKS)  # pixels on either side that an output depends on
    assert start - first >= blind
    assert last - stop >= blind
    assert end == 640
    assert [strip.shape for strip in denoiser.photographs()] == [
        (2, 1, 426, 384),
        (2, 1, 426, 80),
        (2, 1, 426, 144),
    ]


def test_a_mask_of_a_convolution_leaves_as_many_weights_to_each_channel() -> None:
    arms = module("arms")
    model = nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3))
    options = {"example_inputs": (torch.zeros(1, 32, 8, 8),), "include": ["0", "1"]}
    masked = arms.build("random mask", model, budget=0.25, seed=0, **options)
    kept = masked[0].weight.detach().flatten(1).count_nonzero(1)
    assert (kept == 72).all()
    assert arms.weights(masked) == 2 * 32 * 72


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_all_seeds_are_trained_at_the_best_rate_and_then_it_ends(name: str, quick: bool) -> None:
    found = made_up(name, {}, quick)
    seeds = 1 if quick else {"digits": 5}.get(name, 3)
    cells = [tuple(p.items()) for p in module(name).cells(quick)]
    assert len(set(cells)) == len(cells)
    at_best = [trial.point for trial in found if trial.point["lr"] == 0.016]
    assert len(at_best) == seeds * len(cells)
    assert len({tuple(point.items()) for point in at_best}) == len(at_best)
    others = {trial.point["seed"] for trial in found if trial.point["lr"] != 0.016}
    assert others == set(range(seeds if name == "denoiser" else 1))  # that search for rates


def test_table_of_digits() -> None:
    found = made_up("digits", {"low rank": 3.0, "clos": 0.0, "monarch": -1.0})
    table = module("digits").table(found)
    assert row(table, "dense")[1:] == ["1,000", "99.00 ± 0.00", "", ""]
    assert row(table, "low rank")[2] == "95.99 ± 0.00"  # 72 of 1,797
    lost, twice = row(table, "low rank")[3].split(" ± ")
    assert float(lost) == pytest.approx(3, abs=0.02)
    share = float(lost) / 100  # of images that only the arm has wrong
    expected = 200 * (share * (1 - share) / 1797) ** 0.5
    assert float(twice) == pytest.approx(expected, abs=0.006)
    assert row(table, "low rank")[4] == "no"
    assert row(table, "clos")[3:] == ["+0.00 ± 0.00", "yes"]
    assert row(table, "monarch")[2:] == ["100.00 ± 0.00", row(table, "monarch")[3], "yes"]


def test_verdicts_say_what_the_images_cannot_tell() -> None:
    judged = module("digits").judged
    cases = [(0.1, 0.1), (0.1, 0.3), (0.5, 0.3), (0.5, 0.1)]
    assert [judged(*case) for case in cases] == ["yes", "probably", "probably not", "no"]


def test_an_arm_that_was_not_tested_on_all_images_is_not_in_the_table() -> None:
    found = made_up("digits", {})
    found = [t for t in found if t.point["arm"] != "clos" or t.point["fold"] != 3]
    table = module("digits").table(found)
    assert "| monarch |" in table
    assert "| clos |" not in table


def test_table_of_operators_tells_the_place_of_the_automatic_choice() -> None:
    found = made_up("operators", {"automatic": 0.5, "clos": 0.2, "monarch": 0.499, "low rank": 0.9})
    table = module("operators").table(found)
    header = row(table, "operator")
    cells = dict(zip(header, row(table, "Toeplitz"), strict=True))
    assert [cells[arm] for arm in ("automatic", "clos", "low rank")] == ["1.500", "1.200", "1.900"]
    assert cells["place of automatic"] == "6 of 8"  # Monarch is as good
    assert table.count("| Toeplitz |") == 2  # budgets
    assert dict(zip(header, row(table, "Toeplitz"), strict=True))["narrow dense"] == ""


def test_table_of_the_denoiser() -> None:
    found = made_up("denoiser", {"clos": 0.005, "monarch": 0.02, "butterfly": -0.5})
    table = module("denoiser").table(found)
    assert row(table, "clos")[2:] == ["1005.000 ± 0.000", "30.00", "1.005 ± 0.000", "yes"]
    assert row(table, "monarch")[-1] == "no"
    assert row(table, "butterfly")[-2:] == ["0.500 ± 0.000", "yes"]
    assert table.index("| butterfly |") < table.index("| clos |") < table.index("| monarch |")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_figures_are_drawn(name: str, quick: bool, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    module(name).figure(made_up(name, {"clos": 0.5}, quick), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_a_training_that_failed_is_not_chosen_and_not_asked_for_again() -> None:
    protocol = module("protocol")
    cell = {"arm": "dense", "steps": 5}
    found = [
        trial({**cell, "lr": rate, "seed": 0}, validation=loss, test=loss)
        for rate, loss in ((0.001, 2.0), (0.002, 1.0))
    ]
    broken = {**cell, "lr": 0.004, "seed": 0}
    found.append(sp.Trial("made:up", broken, None, "ValueError: no", 1.0, {}))
    assert protocol.missing(cell, found, 0.002, (0, 1)) == [{**cell, "lr": 0.002, "seed": 1}]
    assert [t.point["lr"] for t in protocol.finals(cell, found)] == [0.002]


def test_sizes() -> None:
    training, digits = module("training"), module("digits")
    width = training.narrow(digits.network, 64, 0.25)
    count = module("arms").weights
    assert count(digits.network(width)) <= 0.25 * 8832 < count(digits.network(width + 1))
    model = digits.network(64)
    body = count(model[:-1])
    share = training.body_budget(model, body, 0.25)
    assert share * body + 640 == pytest.approx(0.25 * 8832)
