"""What the sink says when the disk refuses, and that it leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from penstock.errors import AccountError, OutputError
from penstock.records import ShardFile
from penstock.sink import disk
from penstock.sink.disk import check_writable, describe, flush, place, scratch, writing


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"No space left on device \(1,000 bytes needed, [\d,]+ free.*\); make room"),
        (errno.EDQUOT, r"quota exceeded \(1,000 bytes needed.*make room"),
        (errno.EROFS, r"Read-only file system \(file\); choose another folder"),
        (errno.EACCES, r"Permission denied \(file\); choose another folder"),
        (errno.EFBIG, "File too large; raise the limit"),
        (errno.ENOENT, r"No such file or directory \(file\); something has taken it away"),
        (errno.EIO, r"Input/output error \(file\); check the disk and run again"),
    ],
)
def test_every_error_has_a_diagnosis(tmp_path: Path, number: int, message: str) -> None:
    """The message names the folder, the cause and the next step."""
    with pytest.raises(OutputError, match=message) as caught, writing(tmp_path, needed=1000):
        raise OSError(number, os.strerror(number), "file")
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_pass() -> None:
    """What is no trouble of the disk keeps its type."""
    with pytest.raises(AccountError), writing(Path()):
        raise AccountError


def test_probe_makes_the_folder_and_leaves_nothing(tmp_path: Path) -> None:
    """A folder that can be written is made, and is empty afterwards."""
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_probe_tries_what_a_commit_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A folder where a file cannot be made, flushed or renamed is refused before any work is done."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OutputError, match="Read-only"):
            check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_probe_of_a_file(tmp_path: Path) -> None:
    """A path where no folder can be is an OutputError, too."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to"):
        check_writable(tmp_path / "file")


def test_scratch_goes_whatever_happens(tmp_path: Path) -> None:
    """The folder for half-made files is gone after an error."""
    with pytest.raises(FileExistsError), scratch(tmp_path, "x-") as folder:
        folder.mkdir()
    assert list(tmp_path.iterdir()) == []


def test_description_of_files_and_directories(tmp_path: Path) -> None:
    """A file's digest is its SHA-256; a directory's changes with each name and each byte."""
    (tmp_path / "a").write_bytes(b"abc")
    assert describe(tmp_path / "a") == ShardFile("a", 3, hashlib.sha256(b"abc").hexdigest())
    before = describe(tmp_path)
    assert (before.name, before.size) == (f"{tmp_path.name}/", 3)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = describe(tmp_path)
    (tmp_path / "b").write_bytes(b"abd")
    assert len({before.sha256, renamed.sha256, describe(tmp_path).sha256}) == 3


@pytest.mark.parametrize("syncfs", ["the system's", None])
def test_directories_are_flushed_with_their_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncfs: str | None
) -> None:
    """With or without syncfs, a directory is placed as a whole; without it every member gets its own fsync."""
    if syncfs is None:
        monkeypatch.setattr(disk, "_syncfs", lambda: None)
    source = tmp_path / "tmp" / "00000"
    source.mkdir(parents=True)
    (source / "a").touch()
    (source / "b").touch()
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    flush([source])
    place([source], tmp_path)
    assert {path.name for path in (tmp_path / "00000").iterdir()} == {"a", "b"}
    assert len(flushed) == (4 if syncfs is None else 2)


@pytest.mark.skipif(disk._syncfs() is None, reason="no syncfs on this system")
def test_syncfs_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel reports through syncfs is not swallowed."""
    monkeypatch.setattr(disk, "_syncfs", lambda: lambda _: -1)
    (tmp_path / "tmp" / "00000").mkdir(parents=True)
    with pytest.raises(OSError, match="syncfs"):
        flush([tmp_path / "tmp" / "00000"])


def test_error_without_a_name(tmp_path: Path) -> None:
    """What a write or an fsync reports names no file, and neither does the message."""
    with pytest.raises(OutputError, match="Read-only file system; choose"), writing(tmp_path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_first_error_counts(tmp_path: Path) -> None:
    """A descriptor that is closed a second time, after closing it has failed, does not hide why."""

    def close_twice() -> None:
        try:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        finally:
            os.close(-1)

    with pytest.raises(OutputError, match=r"quota exceeded \(1,000 bytes needed"), writing(tmp_path, needed=1000):
        close_twice()


def test_error_without_a_number(tmp_path: Path) -> None:
    """Where nobody tells what was wrong, the message at least has what was needed, and what there is."""
    message = r"error closing file \(1,000 bytes needed, [\d,]+ free.*\); check the disk"
    with pytest.raises(OutputError, match=message), writing(tmp_path, needed=1000):
        raise OSError("error closing file")


def test_scratch_that_cannot_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble with deleting what is not needed any more is no trouble of the work that was done there."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with monkeypatch.context() as patch, scratch(tmp_path, "x-"):
        patch.setattr("penstock.sink.disk.shutil.rmtree", fail)


def test_inodes_may_run_out_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space, and yet bytes are free: then it is the inodes, and the message says so."""
    system = list(os.statvfs(tmp_path))
    system[5:8] = [100, 0, 0]  # f_files, f_ffree, f_favail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(system))
    with pytest.raises(OutputError, match="no inode"), writing(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_rest_of_a_probe_is_swept(tmp_path: Path) -> None:
    """What a process left that was killed in the middle of its probe goes with the next one."""
    (tmp_path / ".penstock-probe-abc").mkdir()
    (tmp_path / ".penstock-probe-abc.moved").touch()
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
