"""Files are published whole or not at all, whatever step fails."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sparsify.errors import FileError, ModelError
from sparsify.files import publish, staged


def write(path: Path, text: str = "new", overwrite: bool = True) -> None:
    """Publish a file and its side file."""
    with staged(path, overwrite=overwrite) as temporary:
        temporary.write_text(text)
        temporary.with_name(f"{temporary.name}.data").write_text(f"{text} data")
        temporary.with_name("probe").write_text("thrown away")


def contents(folder: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in folder.iterdir()}


def test_both_files_appear_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "m")
    assert contents(tmp_path) == {"m": "new", "m.data": "new data"}
    write(tmp_path / "m", "newer")
    assert contents(tmp_path) == {"m": "newer", "m.data": "newer data"}


@pytest.mark.parametrize("failing", range(8))
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_nth_failure_leaves_old_or_new(
    step: str, failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m", "old")
    real, calls = getattr(os, step), 0

    def fails(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch, suppress(FileError):
        patch.setattr(os, step, fails)
        write(tmp_path / "m", "new")
    found = contents(tmp_path)
    assert found in ({"m": text, "m.data": f"{text} data"} for text in ("old", "new"))
    assert found["m"] == "new" or calls > failing


def test_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FileError, match=r"Cannot write .*m: No space left on device"):
        publish(tmp_path / "m", full)
    assert not contents(tmp_path)


def test_other_errors_of_the_writer_pass(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_text("half")
        raise ModelError("the model, not the disk")

    with pytest.raises(ModelError, match="the model, not the disk"):
        publish(tmp_path / "m", fails)
    assert not contents(tmp_path)


def test_refuses_what_it_may_not_replace(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("old")
    with pytest.raises(FileError, match="exists already"):
        write(tmp_path / "m", overwrite=False)
    with pytest.raises(FileError, match="is a folder"):
        write(tmp_path)
    with pytest.raises(FileError, match="Cannot write"):
        write(tmp_path / "no" / "m")
    assert contents(tmp_path) == {"m": "old"}


def test_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    publish(tmp_path / "link", lambda path: path.write_text("new"), overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
