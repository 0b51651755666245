"""Refusing an output path before any work where it cannot serve."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import FileError

__all__ = ["check_output", "input_files"]


def check_output(
    path: str, inputs: Iterable[str] = (), *, replace: bool = False, is_folder: bool = False
) -> Path:
    """Check where a command will write.

    Args:
        path: the output.
        inputs: what the command reads; the output must be none of them.
        replace: whether an existing output may be replaced.
        is_folder: whether a folder is written, instead of a file.

    Returns:
        The path.

    Raises:
        FileError: it is an input, exists, is of the wrong kind, or its folder is missing or not
            writable.

    Example:
        >>> check_output("new.onnx", ["my.models:make_net"]).name
        'new.onnx'
    """
    output = Path(path)
    for source in inputs:
        if os.path.realpath(source) == os.path.realpath(output):
            raise FileError(f"{output} is an input of this command; give another output.")
    _check_kind(output, is_folder)
    is_taken = any(output.iterdir()) if output.is_dir() else output.exists()
    if is_taken and not replace:
        raise FileError(f"{output} exists already; pass --force to replace it.")
    folder = output.absolute().parent
    if not folder.is_dir():
        raise FileError(f"The folder {folder} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise FileError(f"Cannot write {output}: its folder is not writable.")
    return output


def input_files(args: argparse.Namespace) -> list[str]:
    """What a command line reads.

    Args:
        args: of any verb.

    Example:
        >>> input_files(argparse.Namespace(source="bert", weights=None))
        ['bert']
    """
    names = ("source", "weights", "plan", "config")
    return [path for name in names if (path := getattr(args, name, None))]


def _check_kind(output: Path, is_folder: bool) -> None:
    if is_folder:
        if output.exists() and not output.is_dir():
            raise FileError(f"{output} is a file; a model folder is written as a folder.")
    elif output.is_dir():
        raise FileError(f"{output} is a folder; give the path of a file.")
    elif output.exists() and not output.is_file():
        raise FileError(f"{output} is no regular file.")
