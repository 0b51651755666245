"""Families from other packages: one that is installed for real, and broken ones."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sparsify import registry
from sparsify.errors import ConfigError
from sparsify.fabric import Branch, Stage
from sparsify.registry import Registry
from sparsify.topology import Monarch, Topology, build, proposals
from sparsify.topology.plugins import check_family, proposals_of
from tests.support.paths import ROOT

PLUGIN = ROOT / "tests" / "support" / "plugin"

SCRIPT = """
import sys
import torch
import sparsify as sp

assert "crossed_blocks" in sp.topologies()
fabric = sp.fabric("crossed_blocks", 64, 64, blocks=8)
assert fabric.parameters == 1024 and len(fabric.branches) == 2, fabric
assert sp.fabric("crossed_blocks", 64, 64, budget=0.13).family == "crossed_blocks(blocks=16)"
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
sparse = sp.sparsify(model, topology="crossed_blocks", budget=0.3)
assert sparse[0].fabric.family == "crossed_blocks(blocks=8)", sparse
sparse(torch.ones(2, 64)).sum().backward()
assert all(p.grad is not None for p in sparse.parameters())
"""


def run(*arguments: str, path: Path) -> str:
    """Run Python with the sources and one more folder on its path."""
    environment = {"PYTHONPATH": f"{ROOT}:{path}", "PATH": "", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_package_adds_a_family(tmp_path: Path) -> None:
    source = shutil.copytree(PLUGIN, tmp_path / "source")
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(installed)]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, *offline, str(source)], check=True, capture_output=True, text=True)

    command = "import sys; from sparsify.cli import main; sys.exit(main(['list']))"
    listed = run("-c", command, path=installed)
    assert "crossed_blocks" in listed
    assert "crossed_blocks:CrossedBlocks" in listed
    run("-W", "error", "-c", SCRIPT, path=installed)


# --- broken ones, in this process ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Good(Topology):
    """A family of a user's own."""

    name: ClassVar[str] = "good"
    blocks: int = 2

    def cascades(self, in_features: int, out_features: int) -> tuple[Branch, ...]:
        sides = out_features // self.blocks, in_features // self.blocks
        return ((Stage(self.blocks, *sides, 1),),)

    @classmethod
    def candidates(cls, in_features: int, out_features: int) -> Iterator[Topology]:
        yield cls()


class NoDataclass(Good):
    name: ClassVar[str] = "good"


@dataclasses.dataclass(frozen=True)
class Abstract(Topology):
    name: ClassVar[str] = "good"


@dataclasses.dataclass(frozen=True)
class OtherName(Good):
    name: ClassVar[str] = "better"


@dataclasses.dataclass(frozen=True)
class GrowsNothing(Good):
    grows: ClassVar[str | None] = "links"


class Package:
    """What importlib.metadata knows of a distribution, as far as it is used."""

    def __init__(self, name: str) -> None:
        self.name = name


Install = Callable[..., Registry]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install packages that add entries: (package, name, value) each; gives the table."""
    module = types.ModuleType("their_module")
    for thing in (Good, NoDataclass, Abstract, OtherName, GrowsNothing):
        setattr(module, thing.__name__, thing)
    module.__dict__.update(number=7, function=lambda: None)
    monkeypatch.setitem(sys.modules, "their_module", module)

    def installed(*entries: tuple[str, str, str]) -> Registry:
        points = []
        for package, name, value in entries:
            point = EntryPoint(name, value, "sparsify.topologies")
            vars(point)["dist"] = Package(package)
            points.append(point)
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        ours = {"clos": ".topology.clos:Clos"}
        return Registry("topology", "sparsify.topologies", ours, check=check_family)

    return installed


def test_a_good_one(install: Install) -> None:
    table = install(("theirs", "good", "their_module:Good"))
    assert list(table) == ["clos", "good"]
    assert table["good"] is Good
    assert table.origin("good") == "their_module:Good"


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        ("their_module:number", "must be a subclass of sparsify.topology.Topology; it is 7 (int)"),
        ("their_module:function", "must be a subclass of sparsify.topology.Topology"),
        ("their_module:Abstract", "must define candidates, cascades(), which it lacks"),
        ("their_module:NoDataclass", "put @dataclass(frozen=True) above the class"),
        ("their_module:OtherName", "name = 'good' in the class; it is 'better'"),
        ("their_module:GrowsNothing", "None or one of its options (blocks); it is 'links'"),
        ("their_module:Gone", "cannot be imported: AttributeError"),
        ("their_missing_module:Good", "cannot be imported: ModuleNotFoundError"),
        ("tests.support.broken_module:Good", "cannot be imported: "),
    ],
)
def test_broken_ones_are_named(install: Install, value: str, fragment: str) -> None:
    table = install(("theirs", "good", value))
    assert table["clos"].name == "clos", "a broken package breaks only its own name"
    assert "good" in table
    with pytest.raises(ConfigError) as caught:
        table["good"]
    assert str(caught.value).startswith(f"The topology 'good' of theirs ({value})")
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "fragments"),
    [
        (
            [("theirs", "clos", "their_module:Good")],
            ["'clos': sparsify-fabric (topology.clos:Clos) and theirs (their_module:Good)"],
        ),
        (
            [("theirs", "good", "their_module:Good"), ("others", "good", "their_module:OtherName")],
            ["'good': theirs (their_module:Good) and others (their_module:OtherName)"],
        ),
    ],
)
def test_a_name_that_is_taken(
    install: Install, entries: list[tuple[str, str, str]], fragments: list[str]
) -> None:
    table = install(*entries)
    for _ in range(2):  # the second look says the same
        with pytest.raises(ConfigError, match="Uninstall one of them") as caught:
            list(table)
        assert all(fragment in str(caught.value) for fragment in fragments)


def test_the_same_entry_twice_is_one(install: Install) -> None:
    entry = ("theirs", "good", "their_module:Good")
    assert list(install(entry, entry)) == ["clos", "good"]


CASCADES: dict[str, tuple[Any, str]] = {
    "None": (lambda self, i, o: None, "must return a tuple of tuples of steps"),
    "a list": (lambda self, i, o: [(Stage(1, o, i, 1),)], "must return a tuple of tuples"),
    "a stage": (lambda self, i, o: (Stage(1, o, i, 1),), "must return a tuple of tuples"),
    "other things": (lambda self, i, o: (("stage",),), "must return a tuple of tuples of steps"),
    "nothing": (lambda self, i, o: (), "made no fabric 8 -> 8. A fabric needs at least one branch"),
    "other sizes": (lambda self, i, o: ((Stage(1, o, i + 9, 1),),), "must have 8 to 15 features"),
    "a failure": (lambda self, i, o: 1 / 0, "failed for 8 -> 8: ZeroDivisionError"),
}


@pytest.mark.parametrize("kind", CASCADES)
def test_cascades_that_are_none(kind: str) -> None:
    cascades, fragment = CASCADES[kind]
    broken = dataclasses.dataclass(frozen=True)(type("Broken", (Good,), {"cascades": cascades}))
    with pytest.raises(ConfigError) as caught:
        broken().build(8, 8)
    assert fragment in str(caught.value)
    assert "good()" in str(caught.value)


CANDIDATES: dict[str, tuple[Any, str]] = {
    "None": (lambda cls, i, o: None, "must give an iterable of its instances"),
    "a number": (lambda cls, i, o: 3, "it gave 3 (int)"),
    "names": (lambda cls, i, o: ["good"], "it gave 'good' (str)"),
    "another family": (lambda cls, i, o: [Monarch(4)], "must give its own instances"),
    "classes": (lambda cls, i, o: [cls], "must give its own instances"),
    "a failure": (lambda cls, i, o: 1 / 0, "failed to propose settings for 8 -> 8: ZeroDivision"),
    "a late failure": (lambda cls, i, o: (1 // n for n in (1, 0)), "ZeroDivisionError"),
}


@pytest.mark.parametrize("kind", CANDIDATES)
def test_candidates_that_are_none(kind: str) -> None:
    candidates, fragment = CANDIDATES[kind]
    methods = {"candidates": classmethod(candidates), "__module__": __name__}
    broken = dataclasses.dataclass(frozen=True)(type("Broken", (Good,), methods))
    with pytest.raises(ConfigError) as caught:
        proposals_of(broken, 8, 8)
    assert fragment in str(caught.value)
    assert str(caught.value).startswith("The topology 'good' (tests.test_plugins.Broken)")


# --- without a package --------------------------------------------------------------------------


def test_an_instance_stands_where_a_name_does() -> None:
    assert build(Good(blocks=4), 8, 8, {}).parameters == 16
    assert list(proposals(Good(blocks=4), 8, 8)) == [Good(blocks=4)]
    with pytest.raises(ConfigError, match=r"good\(blocks=4\) has its options already; got blocks"):
        build(Good(blocks=4), 8, 8, {"blocks": 2})
