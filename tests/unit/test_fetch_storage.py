"""Stored objects and files, read by fsspec on threads of our own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from penstock.errors import ConfigError, ItemError, MissingExtraError
from penstock.fetch import storage as module
from penstock.fetch.policy.urls import Target, UrlRules, check_url
from penstock.fetch.storage import Storage, check_schemes
from penstock.records import Reason

RULES = UrlRules(schemes=frozenset({"memory", "file"}))
LIMIT = 100


def target_of(url: str) -> Target:
    return check_url(url, RULES)


@pytest.fixture
def storage() -> Iterator[Storage]:
    storage = Storage(threads=2)
    yield storage
    storage.close()


@pytest.fixture
def bucket() -> Iterator[MemoryFileSystem]:
    """An empty memory file system."""
    system = MemoryFileSystem()
    system.store.clear()
    yield system
    system.store.clear()


def read(storage: Storage, url: str) -> bytes | Reason:
    try:
        return storage.ask(target_of(url), LIMIT).result(timeout=60)
    except ItemError as error:
        return error.reason


@pytest.mark.parametrize(
    ("size", "result"),
    [(1, b"x"), (LIMIT, b"x" * LIMIT), (LIMIT + 1, Reason.BODY_TOO_LARGE), (0, Reason.BODY_EMPTY)],
)
def test_objects_are_read_up_to_the_limit(
    storage: Storage, bucket: MemoryFileSystem, tmp_path: Path, size: int, result: bytes | Reason
) -> None:
    """The limit is exact, in a storage and on disk; the key is taken as it stands."""
    bucket.pipe("/bucket/a b#1?.jpg", b"x" * size)
    (tmp_path / "a b#1?.jpg").write_bytes(b"x" * size)
    assert read(storage, "memory://bucket/a b#1?.jpg") == result
    assert read(storage, f"file://{tmp_path}/a b#1?.jpg") == result


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no file without an end here")
def test_no_more_than_the_limit_is_read(storage: Storage) -> None:
    """A file without an end is too large, and not more."""
    assert read(storage, "file:///dev/zero") is Reason.BODY_TOO_LARGE


def test_what_is_not_there(storage: Storage, bucket: MemoryFileSystem, tmp_path: Path) -> None:
    """Missing objects, folders, and paths through files."""
    (tmp_path / "file").touch()
    assert read(storage, "memory://bucket/missing") is Reason.STORAGE_NOT_FOUND
    for path in ("missing", "", "file/below"):
        assert read(storage, f"file://{tmp_path}/{path}") is Reason.STORAGE_NOT_FOUND


class NoCredentialsError(Exception):
    """Named as botocore's."""


class SpecialCredentialsError(NoCredentialsError):
    """Derived from a known one."""


def wrapped(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("no"), Reason.STORAGE_NOT_FOUND),
        (IsADirectoryError("no"), Reason.STORAGE_NOT_FOUND),
        (PermissionError("Access Denied"), Reason.STORAGE_FORBIDDEN),
        (NoCredentialsError("Unable to locate credentials"), Reason.STORAGE_FORBIDDEN),
        (SpecialCredentialsError("no"), Reason.STORAGE_FORBIDDEN),
        (wrapped(RuntimeError("no"), NoCredentialsError("no")), Reason.STORAGE_FORBIDDEN),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), Reason.LOCAL_DESCRIPTORS),
        (wrapped(ConnectionError("no"), OSError(errno.ENFILE, "no")), Reason.LOCAL_DESCRIPTORS),
        (OSError(errno.EIO, "no"), Reason.STORAGE_ERROR),
        (TimeoutError("no"), Reason.STORAGE_ERROR),
        (MemoryError(), Reason.STORAGE_ERROR),
        (KeyError("x"), Reason.STORAGE_ERROR),
        (SystemExit(1), Reason.STORAGE_ERROR),
    ],
)
def test_errors_have_reasons(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, error: BaseException, reason: Reason
) -> None:
    """Whatever a client raises is translated, and its thread lives on."""

    def fail(self: Any, path: str, **options: Any) -> bytes:
        raise error

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    assert [read(storage, "memory://bucket/a") for _ in range(3)] == [reason] * 3


def test_a_chain_of_exceptions_may_be_a_circle(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for the cause comes to an end."""
    error = wrapped(RuntimeError("a"), RuntimeError("b"))
    assert error.__cause__ is not None
    error.__cause__.__cause__ = error
    assert module._translate(error).reason is Reason.STORAGE_ERROR


class Gate:
    """A file system whose reads of ``slow`` hang until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        monkeypatch.setattr(MemoryFileSystem, "cat_file", self.read)

    def read(self, path: str, **options: Any) -> bytes:
        if "slow" in path:
            self.entered.release()
            self.opened.wait()
        return path.encode()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


def test_a_read_that_hangs_holds_up_no_other(storage: Storage, gate: Gate) -> None:
    """Others are read while it hangs, and it ends when it does."""
    slow = storage.ask(target_of("memory://b/slow"), LIMIT)
    assert [read(storage, f"memory://b/{n}") for n in range(10)] == [f"/b/{n}".encode() for n in range(10)]
    assert not slow.done()
    gate.opened.set()
    assert slow.result(timeout=60) == b"/b/slow"


def test_threads_are_bounded_and_reused(storage: Storage, gate: Gate) -> None:
    """One read needs one thread; many share as many as there may be."""
    before = threading.active_count()
    for n in range(10):
        read(storage, f"memory://b/{n}")
    assert threading.active_count() - before == 1
    asked = [storage.ask(target_of(f"memory://b/slow{n}"), LIMIT) for n in range(5)]
    for _ in range(2):
        gate.entered.acquire()
    assert threading.active_count() - before == 2
    gate.opened.set()
    assert not wait(asked, timeout=60).not_done


def test_closing_fails_what_has_not_begun(storage: Storage, gate: Gate) -> None:
    """What runs is let be; what waits, and what comes later, fails at once."""
    running = [storage.ask(target_of(f"memory://b/slow{n}"), LIMIT) for n in range(2)]
    for _ in running:
        gate.entered.acquire()
    waiting = storage.ask(target_of("memory://b/x"), LIMIT)
    storage.close()
    storage.close()
    later = storage.ask(target_of("memory://b/x"), LIMIT)
    assert isinstance(later.exception(timeout=60), ItemError)
    assert not running[0].done()
    gate.opened.set()
    assert isinstance(waiting.exception(timeout=60), ItemError)
    assert [answer.result(timeout=60) for answer in running] == [b"/b/slow0", b"/b/slow1"]


@pytest.mark.parametrize("schemes", [(), ("file",), ("memory", "file", "local")])
def test_storages_that_are_here(schemes: tuple[str, ...]) -> None:
    """What fsspec can read is accepted."""
    check_schemes(schemes)


@pytest.mark.parametrize(
    "scheme", ["http", "https", "ftp", "sftp", "smb", "webhdfs", "github", "filecache", "zip", "reference", "data"]
)
def test_what_is_no_storage(scheme: str) -> None:
    """What connects to wherever a row says, or wraps something else, is refused."""
    with pytest.raises(ConfigError, match=f"--allow-scheme '{scheme}': no storage"):
        check_schemes(("memory", scheme))


def test_unknown_schemes() -> None:
    """The message says what is expected."""
    with pytest.raises(ConfigError, match="unknown to fsspec; expected"):
        check_schemes(("s4",))


@pytest.mark.parametrize(
    ("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs"), ("hf", "huggingface_hub")]
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str, package: str) -> None:
    """With the line that installs it."""

    def missing(protocol: str) -> type:
        raise ImportError(f"Install something to access {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(MissingExtraError, match=f"pip install {package}$"):
        check_schemes((scheme,))


def test_every_scheme_of_fsspec_is_decided() -> None:
    """A scheme that a new fsspec brings must be looked at: is it a storage, or a way round the guard?"""
    storages = {
        *("abfs", "adl", "az", "box", "dbfs", "dropbox", "dvc", "file", "gcs", "gdrive", "gs", "hf", "lakefs", "local"),
        *("memory", "asynclocal", "oci", "ocilake", "oss", "s3", "s3a", "tos", "tosfs", "wandb"),
    }
    assert not storages & module._NO_STORAGES
    assert set(known_implementations) - storages - module._NO_STORAGES == set()


@pytest.mark.slow
def test_a_read_that_hangs_does_not_hold_up_the_exit() -> None:
    """The interpreter ends while a read hangs for ever."""
    program = (
        "import threading; from fsspec.implementations.memory import MemoryFileSystem\n"
        "from penstock.fetch.policy.urls import *; from penstock.fetch.storage import Storage\n"
        "MemoryFileSystem.cat_file = lambda *a, **k: threading.Event().wait()\n"
        "Storage().ask(check_url('memory://b/a', UrlRules(schemes=frozenset({'memory'}))), 1)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
