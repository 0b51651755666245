"""What this installation can do, and what it lacks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from .native.library import library, path, why_not
from .version import package_version

__all__ = ["Capability", "capabilities", "plug_ins"]

_CORE = ("torch", "numpy", "scipy", "safetensors", "onnx", "onnxscript", "onnxruntime", "rich")
_EXTRAS = {"transformers": "hf", "matplotlib": "plot", "joblib": "sweep", "ray": "ray"}


@dataclass(frozen=True)
class Capability:
    """One thing that is live or not.

    Args:
        kind: "package", "kernel", "library" or "extra".
        name: what it is called.
        is_live: whether it can be used.
        detail: its version, or why it cannot be used and what to do.
    """

    kind: str
    name: str
    is_live: bool
    detail: str


def capabilities() -> tuple[Capability, ...]:
    """Which kernels, libraries and extras are live, and why the others are not.

    Returns:
        The package itself first, then kernels, libraries and extras.

    Example:
        >>> live = {c.name for c in capabilities() if c.kind == "kernel" and c.is_live}
        >>> live >= {"torch", "reference"}
        True
    """
    libraries = tuple(_library("library", name, "pip install sparsify-fabric") for name in _CORE)
    extras = tuple(
        _library("extra", name, f'pip install "sparsify-fabric[{extra}]"')
        for name, extra in _EXTRAS.items()
    )
    return (_package(), *_kernels(), _operators(), *libraries, *extras)


def plug_ins() -> list[dict[str, str]]:
    """Everything that is chosen by name, with its home, entries of other packages included.

    Example:
        >>> {row["kind"] for row in plug_ins()} >= {"topology", "init", "kernel"}
        True
    """
    from .frontend.source import FRONTENDS
    from .init import INITS
    from .ops.kernels import KERNELS
    from .topology import TOPOLOGIES

    return [
        {"kind": table.kind, "name": name, "home": table.origin(name)}
        for table in (TOPOLOGIES, INITS, KERNELS, FRONTENDS)
        for name in table
    ]


def _package() -> Capability:
    try:
        other = version("sparsify")
    except PackageNotFoundError:
        python = ".".join(map(str, sys.version_info[:3]))
        detail = f"{package_version()}, Python {python}, {sys.platform}"
        return Capability("package", "sparsify-fabric", True, detail)
    return Capability(
        "package",
        "sparsify-fabric",
        False,
        f"the distribution 'sparsify' {other}, another project, is installed under the same import "
        "name; run: pip uninstall sparsify && pip install --force-reinstall sparsify-fabric",
    )


def _kernels() -> tuple[Capability, ...]:
    from .ops.kernels import KERNELS

    found = []
    for name in KERNELS:
        try:
            KERNELS[name]()
        except Exception as error:  # noqa: PERF203 - a plug-in may fail in any way
            found.append(Capability("kernel", name, False, f"{type(error).__name__}: {error}"))
        else:
            found.append(Capability("kernel", name, True, KERNELS.origin(name)))
    return tuple(_native(row) if row.name == "cpu" else row for row in found)


def _native(row: Capability) -> Capability:
    """What is live of the kernel that needs the native library."""
    native = library()
    if native is None or not row.is_live:
        reason = why_not() or row.detail
        return replace(row, is_live=False, detail=f"kernel 'torch' is used instead: {reason}")
    return replace(row, detail=f"{row.detail}, {native.sparsify_isa().decode()} instructions")


def _operators() -> Capability:
    """The native library as ONNX Runtime sees it: the operators of exported files."""
    if (file := path()) is None:
        detail = f"onnxruntime runs the bodies in exported files instead: {why_not()}"
        return Capability("library", "libsparsify", False, detail)
    return Capability("library", "libsparsify", True, f"operators for onnxruntime in {file}")


def _library(kind: str, name: str, remedy: str) -> Capability:
    loaded = sys.modules.get(name, "unknown")
    if loaded is None or (loaded == "unknown" and find_spec(name) is None):  # None: blocked
        return Capability(kind, name, False, f"not installed; {remedy}")
    try:
        return Capability(kind, name, True, version(name))
    except PackageNotFoundError:
        return Capability(kind, name, True, "version unknown")
