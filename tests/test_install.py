"""`sparsify.passes` is the folder passes/, however the package was installed.

Wheel, wheel from the sdist, editable install and plain checkout; from an empty folder, from the
checkout as working directory, and beside a user's own `passes/`. Nothing here needs a network.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import sparsify
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
assert len(sparsify.__path__) == 1, sparsify.__path__  # no folder of the checkout beside it
assert issubclass(ReplaceDense, sparsify.passes.Pass)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 2))
sparse = sparsify.sparsify(model, budget=0.25)
assert isinstance(sparse[0], sparsify.nn.FabricLinear), sparse
print(pathlib.Path(base.__file__).resolve())
"""

OWN_PASSES = "import passes\nassert passes.MINE\n"


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


def _build(kind: str, source: Path, folder: Path) -> Path:
    """Build a "wheel" or an "sdist" with the backend that is installed, offline."""
    folder.mkdir(exist_ok=True)
    code = f"from scikit_build_core.build import build_{kind} as b; b({str(folder)!r})"
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


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    checkout = _copy_of_checkout(tmp_path / "checkout")
    wheel = _build("wheel", checkout, tmp_path / "wheel")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"sparsify"}
    assert len(names) == len(set(names))
    assert {"sparsify/passes/base.py", "sparsify/py.typed"} <= set(names)

    python = _environment(tmp_path / "venv", str(wheel))
    *installed, local = _check(python, checkout, tmp_path)
    assert all(tmp_path / "venv" in path.parents for path in installed)
    assert local == checkout / "passes" / "base.py"  # the checkout comes first on the path


@pytest.mark.slow
def test_wheel_from_sdist(tmp_path: Path) -> None:
    checkout = _copy_of_checkout(tmp_path / "checkout")
    sdist = _build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path / "unpacked", **_safe_extraction())
    needed = {"LICENSE", "README.md", "constraints.txt", "tests/test_install.py", "passes/base.py"}
    assert needed <= members
    (unpacked,) = (tmp_path / "unpacked").iterdir()

    wheel = _build("wheel", unpacked, tmp_path / "wheel")
    direct = _build("wheel", checkout, tmp_path / "direct")
    assert zipfile.ZipFile(wheel).namelist() == zipfile.ZipFile(direct).namelist()
    python = _environment(tmp_path / "venv", str(wheel))
    assert all(path.name == "base.py" for path in _check(python, unpacked, tmp_path))


def _safe_extraction() -> dict[str, str]:
    return {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.mark.slow
def test_editable_install(tmp_path: Path) -> None:
    checkout = _copy_of_checkout(tmp_path / "checkout")
    python = _environment(tmp_path / "venv", "--editable", str(checkout))
    assert set(_check(python, checkout, tmp_path)) == {checkout / "passes" / "base.py"}

    # A file that is added later is found without installing again, on both sides of the seam.
    (checkout / "sparsify" / "later.py").write_text("from .errors import nearest\n")
    (checkout / "passes" / "later.py").write_text("from ..later import nearest\n")
    later = "from sparsify.passes.later import nearest"
    run_python("-c", later, cwd=tmp_path, python=python, checkout=False)
