"""The floors of the house: a file imports its own floor and lower ones, and stays small."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# The longest entry that a module's name starts with holds. A new file needs a place here.
FLOORS = {
    "sparsify.cli": 8,
    "sparsify.command": 8,
    "sparsify.demo": 8,
    "sparsify": 7,  # sparsify/__init__.py
    "sparsify.api": 7,
    "sparsify.frontend": 6,
    "sparsify.export": 6,
    "sparsify.onnx": 6,
    "sparsify.io": 6,
    "sparsify.store": 6,
    "sparsify.verify": 6,
    "sparsify.report": 6,
    "sparsify.environment": 6,
    "sparsify.bench": 6,
    "sparsify.plot": 6,
    "sparsify.distributed": 6,
    "sparsify.page": 6,
    "sparsify.sweep": 6,
    "sparsify.passes": 5,
    "sparsify.nn": 4,
    "sparsify.init": 4,
    "sparsify.optim": 4,
    "sparsify.recipes": 4,
    "sparsify.optim_convert": 4,
    "sparsify.ops": 3,
    "sparsify.native": 3,
    "sparsify.select": 2,
    "sparsify.projection": 2,
    "sparsify.plan": 2,
    "sparsify.site": 2,
    "sparsify.fabric": 1,
    "sparsify.steps": 1,
    "sparsify.topology": 1,
    "sparsify.errors": 0,
    "sparsify.registry": 0,
    "sparsify.match": 0,
    "sparsify.config": 0,
    "sparsify.files": 0,
    "sparsify.mapping": 0,
    "sparsify.quiet": 0,
    "sparsify.version": 0,
}

# Not at the top of any module: they are slow to import, or extras.
LAZY = {
    "joblib",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "ray",
    "rich",
    "safetensors",
    "scipy",
    "transformers",
}
TORCH_FROM = 3  # the lowest floor that may import torch at the top
TORCHLESS = {"sparsify", "sparsify.cli"}  # above it, for `import sparsify` and `sparsify --help`

MOST_LINES = 400


@dataclass(frozen=True)
class Import:
    """One import of a source file."""

    module: str  # the file that imports
    target: str  # what it imports, with its full name
    line: int
    is_at_top: bool  # runs when the file is imported

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def _sources() -> dict[str, Path]:
    """Every module by name; passes/ under the name that it is installed as."""
    found = {}
    for folder, package in (("sparsify", "sparsify"), ("passes", "sparsify.passes")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if (ROOT / "sparsify" / "passes") in path.parents:
                continue  # the link to passes/, in versions of Python that follow it
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


SOURCES = _sources()


def floor(module: str) -> int | None:
    """The floor of a module of ours, None where the table has no place for it."""
    parts = module.split(".")
    for size in range(len(parts), 1, -1):
        if ".".join(parts[:size]) in FLOORS:
            return FLOORS[".".join(parts[:size])]
    return FLOORS["sparsify"] if module == "sparsify" else None


def _imports(module: str) -> Iterator[Import]:
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    lazy = {id(inner) for node in ast.walk(tree) if _is_lazy(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for target in _targets(node, module):
                yield Import(module, target, node.lineno, id(node) not in lazy)


def _is_lazy(node: ast.AST) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _targets(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    package = module.split(".")
    if SOURCES[module].name != "__init__.py":
        package = package[:-1]
    prefix = package[: len(package) - node.level + 1] if node.level else []
    base = ".".join([*prefix, *([node.module] if node.module else [])])
    for alias in node.names:
        submodule = f"{base}.{alias.name}"
        yield submodule if submodule in SOURCES else base


IMPORTS = [found for module in SOURCES for found in _imports(module)]


def test_every_file_has_a_floor() -> None:
    homeless = [name for name in SOURCES if floor(name) is None]
    assert not homeless, f"Give these files a floor in the table above: {homeless}"


def test_every_import_of_ours_exists() -> None:
    ours = [found for found in IMPORTS if found.target.split(".")[0] in ("sparsify", "passes")]
    missing = [str(found) for found in ours if found.target not in SOURCES]
    assert not missing, "\n".join(missing)


def test_no_import_goes_up() -> None:
    upward = [
        f"{found} (floor {low} -> {high})"
        for found in IMPORTS
        if (low := floor(found.module)) is not None
        and (high := floor(found.target)) is not None
        and high > low
    ]
    assert not upward, "\n".join(upward)


def test_slow_libraries_are_imported_where_they_are_used() -> None:
    eager = [
        str(found) for found in IMPORTS if found.is_at_top and found.target.split(".")[0] in LAZY
    ]
    assert not eager, "\n".join(eager)


def test_the_low_floors_and_the_entrances_do_without_torch() -> None:
    eager = [
        str(found)
        for found in IMPORTS
        if found.is_at_top
        and found.target.split(".")[0] == "torch"
        and (floor(found.module) in range(TORCH_FROM) or found.module in TORCHLESS)
    ]
    assert not eager, "\n".join(eager)


def test_files_are_small(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in SOURCES.items()}
    sizes = sorted(lines.values())
    p90 = sizes[int(0.9 * (len(sizes) - 1))]
    with capsys.disabled():
        print(
            f"\n{len(sizes)} source files, {sum(sizes)} lines: "
            f"median {statistics.median(sizes):.0f}, p90 {p90}, max {sizes[-1]}"
        )
        for name in sorted(lines, key=lines.__getitem__, reverse=True)[:5]:
            print(f"{lines[name]:5} {name}")
    large = {name: count for name, count in lines.items() if count > MOST_LINES}
    assert not large, f"Split these by idea: {large}"


def test_no_module_takes_the_place_of_the_function() -> None:
    assert "sparsify.sparsify" not in SOURCES
