"""Files are published whole or not at all, whatever step fails."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sparsify.errors import FileError, ModelError
from sparsify.files import publish, staged, staged_folder


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


def write_folder(path: Path, text: str = "new", overwrite: bool = True) -> None:
    with staged_folder(path, overwrite=overwrite) as temporary:
        (temporary / "a").write_text(text)
        (temporary / "b").write_text(f"{text} data")


@pytest.mark.parametrize("failing", range(7))
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("existed", [False, True])
def test_nth_failure_leaves_the_old_folder_or_the_new(
    existed: bool, step: str, failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"mine": "kept"} if existed else {}
    if existed:
        write_folder(tmp_path / "out", "old")
        (tmp_path / "out" / "mine").write_text("kept")
    real, calls = getattr(os, step), 0

    def fails(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch, suppress(FileError):
        patch.setattr(os, step, fails)
        write_folder(tmp_path / "out", "new")
    assert [path.name for path in tmp_path.iterdir()] in ([], ["out"])
    found = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    whole = [{"a": text, "b": f"{text} data"} | others for text in ("old", "new")]
    assert found in (whole if existed else [{}, whole[1]])
    assert found == whole[1] or calls > failing


def test_a_folder_is_written_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", overwrite=False)
    assert contents(tmp_path / "empty") == {"a": "new", "b": "new data"}
    with pytest.raises(FileError, match="is not empty"):
        write_folder(tmp_path / "empty", overwrite=False)
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileError, match="is a file"):
        write_folder(tmp_path / "file")
    with pytest.raises(FileError, match="Cannot write"):
        write_folder(tmp_path / "no" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


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
