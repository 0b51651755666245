"""Every example in a docstring runs, and everything public has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import sparsify as sp

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(sp.__path__, "sparsify.")
    if not module.name.startswith("sparsify.demo") and not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", sorted(sp.__all__))
def test_public_names_are_documented(name: str) -> None:
    thing = getattr(sp, name)
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return
    text = inspect.getdoc(thing)
    assert text
    assert inspect.isclass(thing) or ">>>" in text, f"{name} has no example"


def test_examples_exist() -> None:
    finder = doctest.DocTestFinder()
    examples = sum(
        len(test.examples)
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
    )
    assert examples > 60
