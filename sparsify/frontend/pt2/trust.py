"""What in a .pt2 file could run code when it is loaded, and the refusal of it.

`torch.export.load` unpickles, evaluates sizes as Python, imports modules by name and executes
guards, all as the file says. A plain program needs none of it but numbers and symbols; so that is
what is let through. Everything else needs the user's word that he trusts the file.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import torch

from ...errors import ModelError
from ...files import reading

__all__ = ["Names", "untrusted"]

_OPERATOR = re.compile(
    r"torch\.ops\.(?!aten\.from_file)\w+(\.\w+)+|torch\.sym_\w+|_operator\.\w+|math\.\w+"
)
_SYMBOL = re.compile(r"[a-z]+\d+")
_CLASS = re.compile(r"[A-Z]\w*")  # sympy's own; Python's functions are in small letters
_FUNCTIONS = {"ceiling", "floor", "sqrt", "log", "exp", "cos", "sin", "tan", "size", "max", "min"}
_MODEL = re.compile(r"[^/]+/models/[^/]+\.json")
_SAMPLE = re.compile(r"[^/]+/data/sample_inputs/[^/]+\.pt")
_OLD = "serialized_exported_program.json"
_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.BinOp, ast.UnaryOp,
    ast.BoolOp, ast.Compare, ast.Subscript, ast.Attribute, ast.operator, ast.unaryop, ast.boolop,
    ast.cmpop, ast.IfExp, ast.Tuple,
)  # fmt: skip


class Names(NamedTuple):
    """The names that a program needs somebody to have defined.

    Args:
        classes: of inputs and outputs, with their modules.
        operators: with their namespaces.
    """

    classes: tuple[str, ...]
    operators: tuple[str, ...]


def untrusted(path: Path, *, trust: bool = False) -> Names:
    """Look into a .pt2 file before it is loaded.

    Args:
        path: the file.
        trust: whether the user trusts it; then what could run code is let through.

    Returns:
        What the program needs.

    Raises:
        FileError: there is no such file.
        ModelError: it is damaged, no exported program, or could run code and is not trusted.
    """
    try:
        with reading(path), ZipFile(path) as archive:
            return _checked(path, archive, trust)
    except (BadZipFile, ValueError, RecursionError, KeyError, EOFError, NotImplementedError) as e:
        raise ModelError(
            f"{path} is no exported program (torch.export.save), or it is damaged: {e}."
        ) from None


def _checked(path: Path, archive: ZipFile, trust: bool) -> Names:
    names = archive.namelist()
    broken = archive.testzip()
    if broken is not None:
        raise BadZipFile(f"the checksum of {broken} is wrong")
    if len(set(names)) != len(names):
        raise BadZipFile("it has two entries of one name")
    if _OLD in names:
        if trust:
            return Names((), ())
        raise _refused(path, "it is in the format of torch 2.7 and before, which is a pickle")
    models = [json.loads(archive.read(name)) for name in names if _MODEL.fullmatch(name)]
    if len(models) != 1:
        raise BadZipFile(f"it holds {len(models)} programs, not one")
    specs = [json.loads(text) for text in _texts(models[0], ("in_spec", "out_spec"))]
    targets = tuple(dict.fromkeys(_texts(models[0], ("target",))))
    if not trust:
        for reason in _reasons(archive, models[0], specs, targets):
            raise _refused(path, reason)
    classes = tuple(dict.fromkeys(text for spec in specs for text in _texts(spec, ("type",))))
    return Names(classes, targets)


def _reasons(archive: ZipFile, model: Any, specs: Any, targets: tuple[str, ...]) -> Iterator[str]:
    """Why a program could run code; nothing where it cannot."""
    for name in archive.namelist():
        yield from _pickles(archive, name)
    for target in targets:
        if not _OPERATOR.fullmatch(target):
            yield f"it calls {target!r}, which is no operator"
    for text in _texts(model, ("expr_str",)):
        if not _is_arithmetic(text, strings=True):
            yield f"it has the size {text[:80]!r}"
    for text in model.get("guards_code") or ():
        if not _is_arithmetic(text, strings=False):
            yield f"it has the guard {text[:80]!r}"
    text = json.dumps(specs)
    if "__enum__" in text or "default_factory" in text:
        yield "its inputs or outputs name a module to import"


def _pickles(archive: ZipFile, name: str) -> Iterator[str]:
    """Why an entry of the archive is a pickle of more than tensors."""
    *_, folder, leaf = ("", *name.split("/"))
    if _SAMPLE.fullmatch(name):
        if not _is_plain(archive.read(name)):
            yield "its example inputs are a pickle of more than tensors"
    elif leaf.startswith(("custom_obj", "opaque_obj")) or leaf.endswith((".pt", ".pth", ".so")):
        yield f"it has {leaf}, a pickle"
    elif folder in ("weights", "constants") and leaf.endswith("config.json"):
        text = json.dumps(json.loads(archive.read(name)))
        if '"use_pickle": true' in text:
            yield f"its {folder} are pickles"


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} could run code when it is loaded: {reason}. If you trust where it comes from, "
        "pass --trust-pickle, or load it with torch.export.load and give the program instead."
    )


def _is_plain(data: bytes) -> bool:
    try:
        if data:
            torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception:  # UnpicklingError, and whatever a hostile file makes it raise
        return False
    return True


def _is_arithmetic(text: str, *, strings: bool) -> bool:
    """Whether a Python expression only computes with numbers, sizes and symbols.

    Args:
        text: the expression.
        strings: whether strings may only name symbols; elsewhere they are keys of inputs.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return all(isinstance(node, _NODES) and _is_harmless(node, strings) for node in ast.walk(tree))


def _is_harmless(node: ast.AST, strings: bool) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return not strings or bool(_SYMBOL.fullmatch(node.value))
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "stride", "shape", "ndim", *_FUNCTIONS) and not strings
    if isinstance(node, ast.Call):
        called = node.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        return name in _FUNCTIONS or bool(_CLASS.fullmatch(name))
    return True


def _texts(tree: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """The texts under these keys, anywhere in nested JSON."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in keys and isinstance(value, str):
                yield value
            else:
                yield from _texts(value, keys)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value, keys)
