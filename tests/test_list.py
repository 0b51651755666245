"""`sparsify list --in N --out N`: every family's best fabric, its scores, and the pick."""

from __future__ import annotations

import json
from typing import Any

import pytest

import sparsify as sp
from sparsify.cli import main
from sparsify.command.listing import Listing, rate
from sparsify.errors import ConfigError
from sparsify.select.choose import choose
from sparsify.select.score import SCORES, score

SIZES = ("--in", "96", "--out", "160", "--budget", "0.2")


@pytest.fixture(scope="module")
def listing() -> Listing:
    return rate(96, 160, 0.2)


@pytest.fixture
def data(listing: Listing) -> Any:
    return json.loads(listing.render("json"))


def test_a_row_per_family_after_the_pick(data: Any) -> None:
    assert [row["family"] for row in data["rows"]] == ["auto", *sp.topologies()]
    for row in data["rows"]:
        if row["fabric"] is None:
            assert row["verdict"] == "none within 0.2 of 15,360 parameters"
        else:
            assert row["parameters"] / 15360 == row["density"] <= 0.2
            assert row["call"].partition("(")[0] in (
                row["family"],
                data["picked"].partition("(")[0],
            )


def test_the_pick_is_what_the_planner_takes(data: Any) -> None:
    choice = choose(96, 160, lambda fabric: fabric.density / 0.2)
    assert choice is not None
    auto, *rows = data["rows"]
    assert auto["fabric"] == str(choice.fabric) == str(sp.fabric("auto", 96, 160, budget=0.2))
    assert [row["call"] for row in rows if row["verdict"] == "picked"] == [choice.fabric.family]
    assert data["reason"] == f"picked {choice.fabric.family} because: {choice.reason}"
    verdicts = {row["family"]: row["verdict"] for row in rows}
    for rival in choice.rivals:
        assert verdicts[rival.family.partition("(")[0]] == rival.why


def test_every_score_of_every_row(listing: Listing, data: Any) -> None:
    for line, row in zip(listing.lines, data["rows"], strict=True):
        if line.fabric is None:
            assert row["scores"] == {}
        else:
            assert list(row["scores"]) == list(SCORES) == list(score(line.fabric))
            assert row["scores"] == pytest.approx(score(line.fabric))
            assert row["scores"]["parameters"] == row["parameters"]
            assert set(row["estimator_errors"]) <= set(SCORES)


def test_tables_are_narrow_and_hold_all_scores(listing: Listing) -> None:
    text = listing.render("table")
    head, spectra, graphs, sentence = text.split("\n\n")
    assert max(len(line) for line in (*spectra.splitlines(), *graphs.splitlines())) <= 100
    assert sentence == listing.render("md").split("\n\n")[-1]
    assert sentence.startswith("picked ")
    found = [line for line in listing.lines[1:] if line.fabric]
    assert len(head.splitlines()) == 2 + len(sp.topologies())
    assert len(spectra.splitlines()) == len(graphs.splitlines()) == 2 + len(found)
    assert sum(" picked" in line for line in head.splitlines()) == 1
    # two heads of the first table are scores too: parameters and stages
    shown = 2 + sum(len(block.splitlines()[1].split()) - 1 for block in (spectra, graphs))
    assert shown == len(list(SCORES))


def test_estimates_are_marked(listing: Listing) -> None:
    lines = {line.family: line for line in listing.lines[1:] if line.fabric}
    marks = set()
    for row in listing.render("table").split("\n\n")[1].splitlines()[2:]:
        family, width, *_, haar = row.split()
        for text, name in ((width, "effective_width"), (haar, "reconstruction_haar")):
            assert text.startswith("~") == (name in lines[family].errors)
            assert float(text.strip("~")) == pytest.approx(lines[family].scores[name], rel=5e-3)
            marks.add(text[0] == "~")
    assert marks == {True, False}


def test_equal_fabrics_of_two_families_say_so(data: Any) -> None:
    rows = {row["family"]: row for row in data["rows"]}
    twin = rows["parallel_butterfly"]
    assert twin["parameters"] == rows["butterfly"]["parameters"]
    assert twin["verdict"] == "the same fabric as butterfly"


def test_where_nothing_fits() -> None:
    listing = rate(4, 4, 0.01)
    assert all(line.fabric is None for line in listing.lines)
    text = listing.render("table")
    assert text.count("none within 0.01 of 16 parameters") == len(sp.topologies())
    assert text.endswith("picked nothing: no family has a fabric within the budget")
    assert json.loads(listing.render("json"))["picked"] is None


def test_the_smaller_share_of_a_budget_holds() -> None:
    both = rate(64, 64, sp.Budget(parameters=0.5, flops=0.25))
    assert both.pick == rate(64, 64, 0.25).pick


def test_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match="in_features=0"):
        rate(0, 4, 0.5)


def test_the_command(capsys: pytest.CaptureFixture[str], listing: Listing) -> None:
    assert main(["list", *SIZES]) == 0
    out, err = capsys.readouterr()
    assert out == listing.render("table") + "\n"
    assert "scored in" in err
    assert main(["list", *SIZES, "--color", "always", "-q"]) == 0
    out, err = capsys.readouterr()
    assert ("\x1b[" in out, err) == (True, "")
    assert main(["list", "--in", "0", "--out", "4"]) == 2
    assert "whole numbers of 1 or more; got in_features=0" in capsys.readouterr().err
    assert main(["list", "--in", "4"]) == 2
