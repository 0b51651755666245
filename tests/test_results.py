"""What the README says about learning is what the stored trainings say."""

from __future__ import annotations

import re

import pytest

import sparsify as sp
from tests.support.benchmarks import module
from tests.support.paths import ROOT

RESULTS = ROOT / "examples" / "results"
SHOWN = re.findall(
    r"<!-- learn-(\w+) -->\n(.*?)\n<!-- /learn-\1 -->",
    (ROOT / "README.md").read_text("utf-8"),
    re.DOTALL,
)


@pytest.mark.parametrize("name", module("").BENCHMARKS)
def test_a_table_is_that_of_its_trainings(name: str) -> None:
    benchmark = module(module("").BENCHMARKS[name].removeprefix("benchmarks."))
    trials = sp.read_trials(RESULTS / f"{name}.jsonl")
    table = benchmark.table([trial for trial in trials if trial.result is not None])
    assert (RESULTS / f"{name}.md").read_text("utf-8") == table + "\n"
    assert (RESULTS / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize(("name", "text"), SHOWN)
def test_the_readme_shows_that_table(name: str, text: str) -> None:
    assert text.strip() == (RESULTS / f"{name}.md").read_text("utf-8").strip()


def test_the_readme_shows_tables() -> None:
    assert {"byte_lm", "byte_lm_rates", "byte_lm_long", "digits", "denoiser"} <= dict(SHOWN).keys()
