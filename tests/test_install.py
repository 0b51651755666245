"""`sparsify.passes` is the folder passes/, and the native library is live, however installed.

Wheel, wheel from the sdist, editable install and plain checkout; from an empty folder, from the
checkout as working directory, and beside a user's own `passes/`. Where the library cannot be built
the package works without it and says so. Nothing here needs a network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import sparsify
from sparsify.native import library as native
from tests.support.paths import ROOT, run_python

# Runs in the fresh environments: the whole package, across the seam in both directions.
SCRIPT = """
import pathlib, sys
import sparsify, sparsify.passes
import sparsify.api
from sparsify.passes import base
from sparsify.passes.replace_dense import ReplaceDense
import torch

assert base.__package__ == "sparsify.passes"
assert {pathlib.Path(path).name for path in sparsify.__path__} == {"sparsify"}, sparsify.__path__
assert issubclass(ReplaceDense, sparsify.passes.Pass)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 2))
sparse = sparsify.sparsify(model, budget=0.25)
assert isinstance(sparse[0], sparsify.nn.FabricLinear), sparse
print(pathlib.Path(base.__file__).resolve())
"""

NATIVE = """
from sparsify.native import library as native
assert native.library(), native.why_not()
print(native.path())
"""

REQUIRE = "SPARSIFY_REQUIRE_NATIVE"  # a build without the library fails
QUICK = {"cmake.build-type": "Debug"}  # compiles in a fraction of the time

OWN_PASSES = "import passes\nassert passes.MINE\n"

needs_compiler = pytest.mark.skipif(
    native.library() is None, reason=f"no library was built here either: {native.why_not()}"
)


@pytest.fixture(autouse=True)
def _the_library_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)


def _user_folder(folder: Path) -> Path:
    """A folder with a script and a package `passes` of the user's own beside it."""
    (folder / "passes").mkdir(parents=True)
    (folder / "passes" / "__init__.py").write_text("MINE = True\n")
    (folder / "passes" / "base.py").write_text("raise ImportError('the user's own file')\n")
    script = folder / "script.py"
    script.write_text(OWN_PASSES + SCRIPT)
    return script


def _copy_of_checkout(folder: Path) -> Path:
    """The checkout without what is not part of it, links kept as links."""
    junk = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    return Path(shutil.copytree(ROOT, folder, symlinks=True, ignore=junk))


def _build(kind: str, source: Path, folder: Path, **settings: str) -> Path:
    """Build a "wheel" or an "sdist" with the backend that is installed, offline."""
    folder.mkdir(exist_ok=True)
    code = f"from scikit_build_core.build import build_{kind} as b; b({str(folder)!r}, {settings})"
    run_python("-W", "ignore", "-c", code, cwd=source, checkout=False)
    (built,) = folder.iterdir()
    return built


def _environment(folder: Path, *what: str) -> Path:
    """A fresh environment with only our package installed, and this one's libraries behind it."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (libraries,) = folder.glob("lib/python*/site-packages")
    # A plain line of a .pth file adds a folder and skips the .pth files in it, so that an editable
    # install of the environment that runs the tests stays out of sight.
    (libraries / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    subprocess.run([*pip, *offline, *what], check=True, capture_output=True, text=True)
    return python


def _check(python: Path, checkout: Path, folder: Path) -> list[Path]:
    """Run the script everywhere; return where `sparsify.passes` came from."""
    empty = folder / "empty"
    empty.mkdir()
    script = _user_folder(folder / "user")
    runs = (
        (("-c", SCRIPT), empty),
        (("-c", SCRIPT), script.parent),
        ((str(script),), empty),
        (("-c", SCRIPT), checkout),
    )
    found = []
    for arguments, cwd in runs:
        done = run_python("-W", "error", *arguments, cwd=cwd, python=python, checkout=False)
        found.append(Path(done.stdout.strip()))
    command = [str(python.parent / "sparsify"), "--version"]
    done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    assert sparsify.__version__ in done.stdout + done.stderr or "+source" in sparsify.__version__
    return found


def test_a_checkout_needs_no_installation(tmp_path: Path) -> None:
    done = run_python("-c", SCRIPT, cwd=tmp_path)
    assert Path(done.stdout.strip()) == ROOT / "passes" / "base.py"


def test_a_folder_passes_of_the_users_own_does_not_matter(tmp_path: Path) -> None:
    script = _user_folder(tmp_path / "user")
    done = run_python(str(script), cwd=tmp_path)
    assert Path(done.stdout.strip()) == ROOT / "passes" / "base.py"


@dataclass(frozen=True)
class Built:
    """A wheel as users get it, and what it was built from."""

    checkout: Path
    wheel: Path
    build: Path  # CMake's folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("built")
    checkout = _copy_of_checkout(folder / "checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(REQUIRE, "1")
        settings = {"build-dir": str(folder / "build")}
        wheel = _build("wheel", checkout, folder / "wheel", **settings)
    yield Built(checkout, wheel, folder / "build")
    shutil.rmtree(folder)


@needs_compiler
@pytest.mark.slow
def test_wheel(built: Built, tmp_path: Path) -> None:
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    assert built.wheel.name.endswith(f"-py3-none-{platform}.whl")
    names = zipfile.ZipFile(built.wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"sparsify"}
    assert len(names) == len(set(names))
    assert {"sparsify/passes/base.py", "sparsify/py.typed"} <= set(names)
    parts = {name for name in names if name.startswith("sparsify/native/")}
    modules = ("__init__.py", "description.py", "library.py")
    files = (*modules, "sparsify.h", f"lib/{native._FILE}")
    assert parts == {f"sparsify/native/{file}" for file in files}

    python = _environment(tmp_path / "venv", str(built.wheel))
    *installed, local = _check(python, built.checkout, tmp_path)
    assert all(tmp_path / "venv" in path.parents for path in installed)
    assert local == built.checkout / "passes" / "base.py"  # the checkout comes first on the path
    library = run_python("-c", NATIVE, cwd=tmp_path, python=python, checkout=False).stdout.strip()
    assert tmp_path / "venv" in Path(library).parents


@needs_compiler
@pytest.mark.slow
def test_kernels_of_two_instruction_sets_share_no_function(built: Built) -> None:
    """Of functions with one name the linker keeps one, perhaps one that the machine cannot run."""
    if (nm := shutil.which("nm")) is None:
        pytest.skip("there is no nm")
    objects = [path for path in built.build.rglob("isa.cpp.o*") if path.suffix != ".d"]
    assert objects
    defined: Counter[str] = Counter()
    for path in objects:
        command = [nm, "--defined-only", "--extern-only", "--format=posix", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        defined.update({line.split()[0] for line in done.stdout.splitlines()})
    assert defined
    assert not [name for name, count in defined.items() if count > 1]


@needs_compiler
@pytest.mark.slow
def test_wheel_from_sdist(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE, "1")
    sdist = _build("sdist", built.checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path / "unpacked", **_safe_extraction())
    needed = {"LICENSE", "README.md", "constraints.txt", "tests/test_install.py", "passes/base.py"}
    needed |= {"CMakeLists.txt", "sparsify/native/core/isa.cpp", "sparsify/native/sparsify.h"}
    assert needed <= members
    (unpacked,) = (tmp_path / "unpacked").iterdir()

    wheel = _build("wheel", unpacked, tmp_path / "wheel", **QUICK)
    assert zipfile.ZipFile(wheel).namelist() == zipfile.ZipFile(built.wheel).namelist()
    python = _environment(tmp_path / "venv", str(wheel))
    assert all(path.name == "base.py" for path in _check(python, unpacked, tmp_path))
    run_python("-c", NATIVE, cwd=tmp_path, python=python, checkout=False)


def _safe_extraction() -> dict[str, str]:
    return {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.mark.slow
def test_editable_install(tmp_path: Path) -> None:
    checkout = _copy_of_checkout(tmp_path / "checkout")
    settings = [f"--config-settings={key}={value}" for key, value in QUICK.items()]
    python = _environment(tmp_path / "venv", *settings, "--editable", str(checkout))
    assert set(_check(python, checkout, tmp_path)) == {checkout / "passes" / "base.py"}
    if native.library() is not None:
        for folder in (tmp_path, checkout):
            run_python("-c", NATIVE, cwd=folder, python=python, checkout=False)

    # A file that is added later is found without installing again, on both sides of the seam.
    (checkout / "sparsify" / "later.py").write_text("from .errors import nearest\n")
    (checkout / "passes" / "later.py").write_text("from ..later import nearest\n")
    later = "from sparsify.passes.later import nearest"
    run_python("-c", later, cwd=tmp_path, python=python, checkout=False)


def _spoil(how: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the native build fail."""
    if how == "broken compiler":
        monkeypatch.setenv("CXX", "/bin/false")
    elif how == "no compiler":
        tools = checkout.parent / "tools"
        tools.mkdir()
        for name in ("cmake", "ninja", "make"):
            if (found := shutil.which(name)) is not None:
                (tools / name).symlink_to(found)
        monkeypatch.setenv("PATH", str(tools))
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.delenv("CXX", raising=False)
    else:
        (checkout / "sparsify" / "native" / "sparsify.h").write_text("#error it does not compile\n")


SPOILED = pytest.mark.parametrize("how", ["broken compiler", "no compiler", "broken source"])


@pytest.mark.slow
@SPOILED
def test_a_build_that_fails_gives_a_wheel_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    checkout = _copy_of_checkout(tmp_path / "checkout")
    with monkeypatch.context() as patch:
        patch.delenv(REQUIRE, raising=False)
        _spoil(how, checkout, patch)
        wheel = _build("wheel", checkout, tmp_path / "wheel")
    assert wheel.name.endswith("-py3-none-any.whl")

    python = _environment(tmp_path / "venv", str(wheel))
    run_python("-W", "error", "-c", SCRIPT, cwd=tmp_path, python=python, checkout=False)
    command = [str(python.parent / "sparsify"), "doctor", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["torch"]["live"]
    for name in ("cpu", "libsparsify"):
        assert not rows[name]["live"]
        assert "could not be built when the package was installed" in rows[name]["detail"]


@pytest.mark.slow
@SPOILED
def test_a_build_that_fails_can_be_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    checkout = _copy_of_checkout(tmp_path / "checkout")
    monkeypatch.setenv(REQUIRE, "1")
    _spoil(how, checkout, monkeypatch)
    with pytest.raises(AssertionError, match=r"CMake (configuration|build) failed"):
        _build("wheel", checkout, tmp_path / "wheel")
    assert os.listdir(tmp_path / "wheel") == []
