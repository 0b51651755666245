"""Publishing files so that a failure leaves the old ones as they were, and nothing half-written.

New files are written into a hidden folder beside the target, forced to disk, and renamed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FileError, ModelError, SparsifyError

__all__ = ["publish", "read_text", "reading", "staged", "staged_folder", "writing"]


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the operating system says about a file into a `FileError` that names it.

    Args:
        path: the file that the block reads or writes, as the user knows it.

    Raises:
        FileError: the block raised an OSError.

    Example:
        >>> with writing("/no/such/folder/m.onnx"):
        ...     open("/no/such/folder/m.onnx", "w")
        Traceback (most recent call last):
        sparsify.errors.FileError: Cannot write /no/such/folder/m.onnx: No such file or directory...
    """
    try:
        yield
    except SparsifyError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"Cannot write {os.fspath(path)}: {reason}. Choose a folder that exists, that you may "
            "write to, and that has room."
        ) from error


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """As `writing`, for a file that the block reads.

    Raises:
        FileError: the block raised an OSError.

    Example:
        >>> with reading("/no/such/file"):
        ...     open("/no/such/file")
        Traceback (most recent call last):
        sparsify.errors.FileError: Cannot read /no/such/file: No such file or directory.
    """
    try:
        yield
    except SparsifyError:
        raise
    except OSError as error:
        raise FileError(f"Cannot read {os.fspath(path)}: {error.strerror or error}.") from error


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file.

    Raises:
        FileError: there is no such file.
        ModelError: it is no text.

    Example:
        >>> read_text("plan.json")  # doctest: +SKIP
    """
    try:
        with reading(path):
            return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{os.fspath(path)} is no text file, or it is damaged.") from None


@contextmanager
def staged(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Lend a temporary path of the same name; publish what lies there if the block succeeds.

    Side files beside the temporary path, named like it with a further ending (`m.onnx.data`), are
    published with it; everything else in its folder is thrown away.

    Args:
        path: the file to publish.
        overwrite: whether an existing file may be replaced.

    Yields:
        The path to write, in a hidden folder on the same disk.

    Raises:
        FileError: the folder is missing or not writable, or the file exists and may not be
            replaced. The old file is untouched then, as after any exception of the block.

    Example:
        >>> with staged("m.txt", overwrite=True) as temporary:
        ...     _ = temporary.write_text("all or nothing")
    """
    target = Path(os.path.realpath(path))
    _check_target(target, overwrite)
    with writing(path):
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield folder / target.name
        _check_target(target, overwrite)
        with writing(path):
            _replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def staged_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Lend a temporary folder; publish the files in it if the block succeeds.

    A new folder appears whole. In one that exists, files of the same names are replaced, and the
    others stay.

    Args:
        path: the folder to publish.
        overwrite: whether one that is not empty may be written to.

    Yields:
        An empty folder on the same disk.

    Raises:
        FileError: the parent folder is missing or not writable, the path is a file, or it is a
            folder that is not empty and may not be written to. What was there is untouched then,
            as after any exception of the block.

    Example:
        >>> with staged_folder("out", overwrite=True) as temporary:
        ...     _ = (temporary / "m.txt").write_text("all or nothing")
    """
    target = Path(os.path.realpath(path))
    _check_folder(target, overwrite)
    with writing(path):
        hidden = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        folder = hidden / target.name
        folder.mkdir()
    try:
        yield folder
        _check_folder(target, overwrite)
        with writing(path):
            if target.exists():
                _move(folder, target, sorted(entry.name for entry in folder.iterdir()))
            else:
                for entry in folder.iterdir():
                    _sync(entry)
                os.replace(folder, target)
                _sync(target.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def publish(
    path: str | os.PathLike[str], writer: Callable[[Path], object], *, overwrite: bool = False
) -> None:
    """Write one file through a temporary one.

    Args:
        path: the file to publish.
        writer: writes the file at the path that it is given.
        overwrite: whether an existing file may be replaced.

    Raises:
        FileError: as `staged`, or the writer raised an OSError (disk full, for one).

    Example:
        >>> publish("m.txt", lambda path: path.write_text("all or nothing"), overwrite=True)
    """
    with staged(path, overwrite=overwrite) as temporary, writing(path):
        writer(temporary)


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise FileError(f"{target} is a folder; give the path of a file.")
    if target.exists() and not overwrite:
        raise FileError(f"{target} exists already; pass overwrite=True to replace it.")


def _check_folder(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise FileError(f"{target} is a file; give the path of a folder.")
    if not overwrite and target.exists() and any(target.iterdir()):
        raise FileError(f"{target} exists and is not empty; pass overwrite=True to write into it.")


def _replace(folder: Path, target: Path) -> None:
    """Move the new files into place; side files first, so that the main file is never without them.

    An old main file steps aside before its side files change: a machine that dies in between
    leaves no main file, which is plain to see, rather than one with the weights of another.
    """
    names = sorted(
        (entry.name for entry in folder.iterdir() if entry.name.startswith(f"{target.name}.")),
    )
    _move(folder, target.parent, [*names, target.name])


def _move(folder: Path, home: Path, names: list[str]) -> None:
    """Move files into the folder where they belong, the main one last; all of them or none."""
    for name in names:
        _sync(folder / name)
    aside = folder / "aside"
    aside.mkdir()
    replaced = [name for name in reversed(names) if (home / name).exists()]
    done: list[str] = []
    try:
        for name in replaced if len(names) > 1 else ():
            os.replace(home / name, aside / name)
        for name in names:
            os.replace(folder / name, home / name)
            done.append(name)
    except BaseException:
        for name in done:
            (home / name).unlink(missing_ok=True)
        for entry in aside.iterdir():
            os.replace(entry, home / entry.name)
        raise
    _sync(home)


def _sync(path: Path) -> None:
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    try:
        descriptor = os.open(path, flags)
    except PermissionError:
        if path.is_dir():  # Windows cannot open folders; its renames are journalled
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
