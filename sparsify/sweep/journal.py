"""Files of results: one trial per line, only ever appended to, by any number of writers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ..errors import FileError, ModelError
from ..files import reading, writing
from .trial import Trial

__all__ = ["append", "check_appendable", "merged", "read_trials"]

logger = logging.getLogger(__name__)

_START = b'{"run": '  # of every line
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


def read_trials(*paths: str | os.PathLike[str]) -> list[Trial]:
    """Read files of results, such as those of several machines, as one.

    Where a function ran at the same point more than once, the first result counts, and an error
    only where there is no result. A line that its writer did not finish is left out, with a
    warning in the log.

    Args:
        paths: files that `sweep` wrote.

    Returns:
        One trial for each function and point, in the order in which they first appear.

    Raises:
        FileError: a file is missing or cannot be read.
        ModelError: a file holds something other than trials.

    Example:
        >>> import sparsify as sp
        >>> _ = sp.sweep(dict, {"lr": [0.1, 0.2]}, "here.jsonl")
        >>> _ = sp.sweep(dict, {"lr": [0.2, 0.4]}, "there.jsonl")
        >>> [trial.result for trial in sp.read_trials("here.jsonl", "there.jsonl")]
        [{'lr': 0.1}, {'lr': 0.2}, {'lr': 0.4}]
    """
    return list(merged(trial for path in paths for trial in _read(path)).values())


def merged(trials: Iterable[Trial]) -> dict[str, Trial]:
    """Trials by key: the first result of each, else its last error.

    Example:
        >>> failed = Trial("my.study:train", {}, None, "ValueError: too large", 1.0, {})
        >>> passed = Trial("my.study:train", {}, {"loss": 2.5}, None, 1.0, {})
        >>> merged([failed, passed, failed]) == {passed.key: passed}
        True
    """
    found: dict[str, Trial] = {}
    for trial in trials:
        known = found.get(trial.key)
        if known is None or known.result is None:
            found[trial.key] = trial
    return found


def append(path: str | os.PathLike[str], line: str) -> None:
    """Add a line to a file, after the half line that a killed writer may have left.

    Args:
        path: the file; made where it is missing.
        line: without a line break.

    Raises:
        FileError: it cannot be written, or not in whole.

    Example:
        >>> append("results.jsonl", Trial("m:f", {}, {}, None, 1.0, {}).to_line())
    """
    with writing(path):
        descriptor = os.open(path, _FLAGS, 0o666)
        try:
            _lock(descriptor)
            data = (b"" if _is_at_line_start(descriptor) else b"\n") + line.encode() + b"\n"
            written = os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if written < len(data):
        raise FileError(f"Cannot write {os.fspath(path)}: the disk is full. Make room, run again.")


def check_appendable(path: str | os.PathLike[str]) -> None:
    """Refuse a path, before any work, that cannot be appended to; makes no file.

    Raises:
        FileError: it is a folder, or it or its folder is not writable, or the folder is missing.

    Example:
        >>> check_appendable("results.jsonl")
    """
    target = Path(os.path.abspath(path))
    with writing(path):
        if target.exists():
            os.close(os.open(target, _FLAGS))
        elif not target.parent.is_dir():
            raise FileError(f"The folder {target.parent} does not exist; make it first.")
        elif not os.access(target.parent, os.W_OK):
            raise FileError(f"Cannot write {target}: its folder is not writable.")


def _lock(descriptor: int) -> None:
    """Keep other writers out until the file is closed."""
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):  # some network disks have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_at_line_start(descriptor: int) -> bool:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0:
        return True
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _read(path: str | os.PathLike[str]) -> Iterable[Trial]:
    with reading(path), open(path, "rb") as file:
        lines = file.read().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield Trial.from_line(line.decode())
        except (ModelError, ValueError, RecursionError) as error:
            if not _is_torn(line, error):
                raise ModelError(
                    f"{os.fspath(path)} is no file of results: line {number} is no trial of a "
                    "sweep. Give another file."
                ) from None
            logger.warning("%s: line %d is not whole and left out", os.fspath(path), number)


def _is_torn(line: bytes, error: Exception) -> bool:
    """Whether the line is the beginning of one of ours."""
    return isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) and (
        line.startswith(_START) or _START.startswith(line)
    )
