"""Finds and loads the native library, and types its functions as `sparsify.h` declares them.

Importing this file loads nothing, and nothing here raises: where the library is missing or broken,
`library()` is None and `why_not()` says why. The answer is found once per process. The variable
SPARSIFY_NATIVE_LIBRARY names another library to load, or is `off`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import c_char_p, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from . import __path__ as _folders  # an editable install keeps the library apart from the sources

__all__ = ["ABI", "VARIABLE", "Threads", "library", "path", "why_not"]

VARIABLE = "SPARSIFY_NATIVE_LIBRARY"
ABI = 1  # SPARSIFY_ABI of the header that the signatures below follow

_NAMES = {"win32": "sparsify.dll", "darwin": "libsparsify.dylib"}
_FILE = _NAMES.get(sys.platform, "libsparsify.so")  # in lib/: else a module, to Python

# Pointers are c_void_p, which takes addresses as plain integers: the cheapest argument there is.
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sparsify_abi": (c_int32, ()),
    "sparsify_isa": (c_char_p, ()),
    "sparsify_use_isa": (c_char_p, (c_char_p,)),
    "sparsify_create": (c_char_p, (c_void_p, c_int64, c_void_p, c_int64, c_void_p)),
    "sparsify_destroy": (None, (c_void_p,)),
    "sparsify_openmp": (None, (c_void_p, c_void_p, c_void_p, c_int64)),
    "sparsify_forward": (
        c_char_p,  # fabric, type, rows, x, x_stride, factors, bias, activation, y, threads
        (
            *(c_void_p, c_int32, c_int64, c_void_p, c_int64),
            *(c_void_p, c_void_p, c_int32, c_void_p, c_void_p),
        ),
    ),
    "sparsify_backward": (
        c_char_p,  # fabric, type, rows, grad, grad_stride, x, x_stride, factors, grad_x,
        (  # grad_factors, threads
            *(c_void_p, c_int32, c_int64, c_void_p, c_int64, c_void_p, c_int64),
            *(c_void_p, c_void_p, c_void_p, c_void_p),
        ),
    ),
    "sparsify_ort_calls": (c_int64, ()),
}


class Threads(ctypes.Structure):
    """`sparsify_threads`: how many threads a call may use, and the function that runs them.

    `parallel` and `pool` are addresses.

    Example:
        >>> Threads(threads=1).threads
        1
    """

    _fields_ = (("threads", c_int64), ("parallel", c_void_p), ("pool", c_void_p))


def library() -> ctypes.CDLL | None:
    """The native library with typed functions; None where there is none.

    Its functions release the interpreter's lock. Those that can fail return a sentence in bytes,
    or None.

    Example:
        >>> native = library()
        >>> native is None or native.sparsify_isa() in (b"avx512", b"avx2", b"neon", b"baseline")
        True
    """
    return _load().library


def why_not() -> str | None:
    """Why there is no native library and what to do, in one sentence; None where there is one.

    Example:
        >>> (why_not() is None) == (library() is not None)
        True
    """
    return _load().why_not


def path() -> Path | None:
    """The file that was loaded; None where there is no native library.

    Example:
        >>> (path() is None) == (library() is None)
        True
    """
    return _load().path


@dataclass(frozen=True)
class _Loaded:
    """What was found: a library and its file, or why not."""

    library: ctypes.CDLL | None = None
    path: Path | None = None
    why_not: str | None = None


@cache
def _load() -> _Loaded:
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return _Loaded(why_not=f"switched off by {VARIABLE}=off")
    if wanted:
        file = Path(wanted).absolute()
        if not file.is_file():
            return _Loaded(why_not=f"{VARIABLE} names {file}, which is no file")
        return _open(file)
    for folder in _folders:
        file = Path(folder, "lib", _FILE).absolute()
        if file.is_file():
            return _open(file)
    return _Loaded(why_not=_why_missing())


def _open(file: Path) -> _Loaded:
    """Load a file and check that it is the library that this version was written for."""
    try:
        native = ctypes.CDLL(str(file))
    except OSError as error:
        return _Loaded(why_not=f"{file} cannot be loaded: {error}")
    try:
        abi = native.sparsify_abi()
        if abi != ABI:
            return _Loaded(
                why_not=f"{file} has version {abi} of the interface and this package needs {ABI}; "
                "build it again: install the package again"
            )
        for name, (result, arguments) in _SIGNATURES.items():
            function = native[name]
            function.restype, function.argtypes = result, arguments
            setattr(native, name, function)
    except AttributeError as error:
        return _Loaded(why_not=f"{file} is not our library, or not of this version: {error}")
    return _Loaded(native, file)


def _why_missing() -> str:
    """Say how an installation comes to have no library."""
    try:
        wheel = distribution("sparsify-fabric").read_text("WHEEL") or ""
    except PackageNotFoundError:
        return f"this is a checkout that was not installed; pip install -e . builds {_FILE}"
    if "-none-any" in wheel:
        return (
            f"{_FILE} could not be built when the package was installed; get GCC 12 or Clang 15, "
            "or newer, and install it again with pip's --force-reinstall --no-cache-dir; with "
            "SPARSIFY_REQUIRE_NATIVE=1 in the environment, that shows what fails"
        )
    return (
        f"there is no lib/{_FILE} in {', '.join(map(str, _folders))}; if that is a checkout, not "
        "the installed package, start Python in another folder or install with pip install -e .; "
        "else install the package again"
    )
