"""What `import sparsify` costs and touches, and the names that it promises."""

from __future__ import annotations

import inspect
import resource
import statistics
from types import ModuleType

import pytest

import sparsify
from tests.support.paths import ROOT, run_python

PUBLIC = {
    "Budget",
    "BudgetError",
    "ConfigError",
    "Fabric",
    "FileError",
    "IncompleteError",
    "MissingExtraError",
    "ModelError",
    "NothingToDoError",
    "Plan",
    "Rule",
    "SparsifyError",
    "Trial",
    "VerificationError",
    "__version__",
    "capabilities",
    "convert_optimizer",
    "distributed",
    "export_onnx",
    "fabric",
    "load",
    "nn",
    "onnx",
    "param_groups",
    "plan",
    "plot",
    "project",
    "read_trials",
    "recipes",
    "save",
    "score",
    "sparsify",
    "sweep",
    "topologies",
}

IMPORT = """
import logging, socket, sys, threading, warnings

class Offline(socket.socket):
    def __init__(self, *_, **__):
        raise OSError("import sparsify opened a socket")

socket.socket = Offline
root = logging.getLogger()
before = (root.level, list(root.handlers), list(warnings.filters), threading.active_count())
import sparsify
after = (root.level, list(root.handlers), list(warnings.filters), threading.active_count())
assert after == before, (before, after)
heavy = {"torch", "numpy", "scipy", "onnx", "onnxruntime", "rich"} & set(sys.modules)
assert not heavy, heavy
"""

HELP = """
import sys
sys.argv = ["sparsify", "--help"]
from sparsify.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, code
assert "torch" not in sys.modules, "the help imports torch"
"""

NAMES = """
import importlib, sys, types
import sparsify
for name in ("plan", "fabric", "sparsify"):
    getattr(sparsify, name)
for module in ("fabric", "plan"):
    importlib.import_module("sparsify." + module)
from sparsify.fabric import Fabric
from sparsify.plan import Plan
for name in ("plan", "fabric", "sparsify"):
    assert isinstance(getattr(sparsify, name), types.FunctionType), name
assert Fabric is sparsify.Fabric and Plan is sparsify.Plan
"""


def test_import_is_light_and_leaves_no_trace() -> None:
    run_python("-W", "error", "-c", IMPORT)


def test_help_is_fast_and_does_without_torch() -> None:
    run_python("-c", HELP)  # writes the byte code, so that the runs below only read it
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_python("-c", HELP)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(seconds) < 0.3, seconds  # of processor time: the machine may be busy


def test_the_public_names_are_these() -> None:
    assert set(sparsify.__all__) == PUBLIC
    assert set(sparsify.__all__) <= set(dir(sparsify))
    assert len(sparsify.__all__) == len(set(sparsify.__all__))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(sparsify, name)
    if name == "__version__":
        assert value[0].isdigit()
        return
    documentation = value.__doc__ or ""
    assert documentation.strip(), f"{name} has no docstring"
    if isinstance(value, ModuleType):
        assert value.__name__ == f"sparsify.{name}"
    elif not (inspect.isclass(value) and issubclass(value, Exception)):
        assert "Example:" in documentation, f"the docstring of {name} has no example"


def test_exceptions_are_one_family() -> None:
    family = [getattr(sparsify, name) for name in PUBLIC if name.endswith("Error")]
    assert all(issubclass(error, sparsify.SparsifyError) for error in family)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sparsifi'"):
        _ = sparsify.sparsifi


def test_functions_keep_their_names_beside_files_of_the_same_name() -> None:
    run_python("-c", NAMES)
    run_python("-c", "import sparsify.plan, sparsify.fabric\n" + NAMES)
    run_python("-c", "from sparsify.api import plan\n" + NAMES)


def test_the_version_is_that_of_the_project_file() -> None:
    if sparsify.__version__ == "0+source":
        pytest.skip("the checkout is not installed")
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{sparsify.__version__}"\n' in text
