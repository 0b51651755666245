"""The native library is found, typed as its header says, and its absence is explained."""

from __future__ import annotations

import _ctypes
import ctypes
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsify.environment import capabilities
from sparsify.native import library as native
from tests.support.paths import ROOT, run_python

HEADER = (ROOT / "sparsify" / "native" / "sparsify.h").read_text("utf-8")
CODE = re.sub(r"/\*.*?\*/|^#.*?$", "", HEADER, flags=re.DOTALL | re.MULTILINE)

needs_library = pytest.mark.skipif(native.library() is None, reason=str(native.why_not()))


# --- the interface ------------------------------------------------------------------------------


def _ctype(declared: str) -> object:
    """The ctypes type of a parameter, a field or a result in C, with or without its name."""
    words = declared.replace("*", " * ").split()
    if "*" in words:
        return ctypes.c_char_p if "char" in words else ctypes.c_void_p
    kinds = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "void": None}
    kinds |= {"sparsify_task": ctypes.c_void_p, "sparsify_parallel": ctypes.c_void_p}
    return next(kinds[word] for word in words if word in kinds)


def test_signatures_are_those_of_the_header() -> None:
    declared = {}
    for result, name, inside in re.findall(r"SPARSIFY_API ([^;(]*?)(\w+)\(([^;]*)\);", CODE):
        parameters = () if inside == "void" else tuple(map(_ctype, inside.split(",")))
        declared[name] = (_ctype(result), parameters)
    assert declared == native._SIGNATURES
    assert f"#define SPARSIFY_ABI {native.ABI}\n" in HEADER


def test_the_structure_of_threads_is_that_of_the_header() -> None:
    (inside,) = re.findall(r"struct {([^}]*)} sparsify_threads;", CODE)
    fields = [field for field in inside.split(";") if field.strip()]
    assert [(field.split()[-1].strip("*"), _ctype(field)) for field in fields] == list(
        native.Threads._fields_
    )


@needs_library
def test_the_library_is_live() -> None:
    loaded = native.library()
    assert loaded is not None
    assert native.why_not() is None
    assert native.path() == Path(loaded._name)
    assert loaded.sparsify_abi() == native.ABI
    assert loaded.sparsify_use_isa(b"mmx") is not None  # an error is a sentence
    assert loaded.sparsify_use_isa(loaded.sparsify_isa()) is None


# --- why not ------------------------------------------------------------------------------------


def _answer(monkeypatch: pytest.MonkeyPatch, value: str) -> native._Loaded:
    """What would be found with this value of the variable; the real answer stays in the cache."""
    monkeypatch.setenv(native.VARIABLE, value)
    return native._load.__wrapped__()


def _sentence(found: native._Loaded) -> str:
    assert found.library is None
    assert found.path is None
    assert found.why_not
    return found.why_not


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _sentence(_answer(monkeypatch, "off")) == "switched off by SPARSIFY_NATIVE_LIBRARY=off"


def test_a_file_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    reason = _sentence(_answer(monkeypatch, "missing.so"))
    assert reason == f"SPARSIFY_NATIVE_LIBRARY names {tmp_path / 'missing.so'}, which is no file"


def test_a_file_that_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "libsparsify.so"
    file.write_text("int main() {}")
    assert "cannot be loaded: " in _sentence(_answer(monkeypatch, str(file)))


def test_a_library_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not our library" in _sentence(_answer(monkeypatch, _ctypes.__file__))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 77;", "has version 77 of the interface and this package needs 1"),
        (f"return {native.ABI};", "undefined symbol: sparsify_isa"),
    ],
)
def test_a_library_of_another_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, expected: str
) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "old.c"
    source.write_text(f"int sparsify_abi(void) {{ {body} }}\n")
    command = [compiler, "-shared", "-fPIC", str(source), "-o", str(tmp_path / "old.so")]
    subprocess.run(command, check=True)
    assert expected in _sentence(_answer(monkeypatch, str(tmp_path / "old.so")))


def _installed_as(tag: str | None) -> object:
    """A stand-in for `importlib.metadata.distribution`."""

    def distribution(_: str) -> object:
        if tag is None:
            raise PackageNotFoundError
        return SimpleNamespace(read_text=lambda _: f"Tag: {tag}\n")

    return distribution


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (None, "a checkout that was not installed; pip install -e . builds"),
        ("py3-none-any", "could not be built when the package was installed; get GCC 12"),
        ("py3-none-linux_x86_64", "install the package again"),
    ],
)
def test_an_installation_without_the_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tag: str | None, expected: str
) -> None:
    monkeypatch.setattr(native, "_folders", [str(tmp_path)])
    monkeypatch.setattr(native, "distribution", _installed_as(tag))
    assert expected in _sentence(_answer(monkeypatch, ""))


@needs_library
def test_any_folder_of_the_package_may_hold_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lib").mkdir()
    copy = Path(shutil.copy(str(native.path()), tmp_path / "lib" / native._FILE))
    monkeypatch.setattr(native, "_folders", ["missing", str(tmp_path)])
    assert _answer(monkeypatch, "").path == copy


def test_the_import_loads_nothing_and_never_fails() -> None:
    code = (
        "import os, sys; os.environ['SPARSIFY_NATIVE_LIBRARY'] = '/missing'\n"
        "import sparsify.native.library as native\n"
        "assert native._load.cache_info().currsize == 0\n"
        "assert native.library() is None and '/missing' in native.why_not()\n"
        "assert 'torch' not in sys.modules\n"
    )
    run_python("-W", "error", "-c", code)


# --- what users are told ------------------------------------------------------------------------


def test_capabilities_explain_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "off")
    monkeypatch.setattr(native, "_load", native._load.__wrapped__)
    rows = {row.name: row for row in capabilities()}
    for name in ("cpu", "libsparsify"):
        assert not rows[name].is_live
        assert "switched off by SPARSIFY_NATIVE_LIBRARY=off" in rows[name].detail
    assert "kernel 'torch' is used instead" in rows["cpu"].detail
    assert rows["torch"].is_live


@needs_library
def test_capabilities_name_the_instructions() -> None:
    loaded = native.library()
    assert loaded is not None
    rows = {row.name: row for row in capabilities()}
    assert rows["cpu"].is_live
    assert f"{loaded.sparsify_isa().decode()} instructions" in rows["cpu"].detail
    assert str(native.path()) in rows["libsparsify"].detail


# --- the file -----------------------------------------------------------------------------------

# In glibc for ever, with a newer version where the library is built on a newer system; a wheel for
# old systems is built on an old one.
RENEWED = {"exp", "pthread_getspecific", "pthread_key_create", "pthread_once"}
RENEWED |= {"pthread_setspecific"}


def _readelf(*options: str) -> str:
    if (readelf := shutil.which("readelf")) is None:
        pytest.skip("there is no readelf")
    command = [readelf, "--wide", *options, str(native.path())]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_library
def test_it_needs_the_c_library_alone() -> None:
    needed = re.findall(r"Shared library: \[(\w+)", _readelf("--dynamic"))
    assert set(needed) <= {"libc", "libm", "libpthread"}


@needs_library
def test_it_runs_on_manylinux_2_28() -> None:
    used = re.findall(r" UND (\w+)@(\w+)_([\d.]+)", _readelf("--dyn-syms"))
    assert used
    assert {library for _, library, _ in used} == {"GLIBC"}
    new = {name for name, _, release in used if [*map(int, release.split("."))] > [2, 28]}
    assert new <= RENEWED


@needs_library
def test_it_exports_its_interface_alone() -> None:
    exported = set(re.findall(r" (?:GLOBAL|WEAK) +DEFAULT +\d+ (\w+)", _readelf("--dyn-syms")))
    assert exported == {*native._SIGNATURES, "RegisterCustomOps"}
