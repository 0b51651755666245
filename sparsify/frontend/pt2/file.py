"""Opening a .pt2 file as an `ExportedProgram`."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path

import torch
from torch.utils import _pytree as pytree

from ... import ops  # noqa: F401  (registers our operators, which the file may call)
from ...errors import ModelError
from ...export.sandbox import quiet
from .trust import Names, untrusted

__all__ = ["open_program"]

_DEFINED_BY = {"transformers": "transformers.integrations.moe", "torchvision": "torchvision"}
"""Namespace of operators -> the module that defines them; modules of these packages only are
imported because a file needs them."""


def open_program(
    path: str | os.PathLike[str], *, trust_pickle: bool = False
) -> torch.export.ExportedProgram:
    """Load a file that `torch.export.save` wrote.

    Operators of this package are known; classes and operators of transformers and torchvision are
    looked up there. A file that could run code is refused.

    Args:
        path: the file.
        trust_pickle: whether the user trusts it, pickles and all.

    Returns:
        The program.

    Raises:
        FileError: there is no such file.
        ModelError: it is damaged, not trusted, or needs a package that is not there.

    Example:
        >>> program = torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(3, 4),))
        >>> torch.export.save(program, "m.pt2")
        >>> open_program("m.pt2").graph_signature.parameters
        ['weight', 'bias']
    """
    path = Path(path)
    names = untrusted(path, trust=trust_pickle)
    _import_packages(names)
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # torch raises whatever its parser came upon
        reason = _missing(names) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ModelError(f"torch.export.load cannot read {path}: {reason}.") from error


def _import_packages(names: Names) -> None:
    """Import what defines the classes and operators of a program, as far as we know it."""
    modules = [name.rpartition(".")[0] for name in names.classes]
    namespaces = {name.split(".")[2] for name in names.operators if name.startswith("torch.ops.")}
    modules += [_DEFINED_BY[space] for space in sorted(namespaces) if space in _DEFINED_BY]
    for module in dict.fromkeys(modules):
        if module.split(".")[0] in _DEFINED_BY:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)


def _missing(names: Names) -> str:
    """What a program needs and nobody has defined, "" where nothing."""
    for name in names.classes:
        if name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
            return (
                f"its inputs or outputs are of the class {name}, which is not registered with "
                "torch's pytree; import the module that defines it first"
            )
    for name in names.operators:
        space, operator = [*name.split("."), "", ""][2:4]
        if name.startswith("torch.ops.") and not hasattr(getattr(torch.ops, space), operator):
            return (
                f"it calls the operator {space}::{operator}, which is not registered; import the "
                "package that defines it first"
            )
    return ""
