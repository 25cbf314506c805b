"""The few things that a run asks of an object store, and the one place where its clients' errors get a diagnosis.

All of it goes through fsspec, so that any store is served for which it has a file system that writes, copies and lists.
A store has no rename and no append; an object appears as a whole, or not at all.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from penstock.errors import OutputError, PenstockError

if TYPE_CHECKING:
    from upath import UPath

__all__ = [
    "copy",
    "create",
    "key_of",
    "listed",
    "names_below",
    "put",
    "read",
    "read_several",
    "remove",
    "remove_below",
    "sizes_below",
    "storing",
    "write",
]

T = TypeVar("T")

_logger = logging.getLogger("penstock")

FEW = 8
"""Objects that are deleted one by one: of many in one request, S3's client does not tell which were refused."""

PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Seconds between the tries of an operation, after those of the client itself: two minutes, as long as a store's short
outages are."""

_FINAL = (
    *(PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError),
    *(NotImplementedError, TypeError),  # a file system that cannot do it
)
"""What a second try would not change."""


@contextlib.contextmanager
def storing(root: UPath, what: str = "write to") -> Iterator[None]:
    """Turns whatever a store's client raises inside into an OutputError with a diagnosis.

    Args:
        root: the output.
        what: is done there; the message begins with ``cannot``, this and the root.

    Raises:
        OutputError: the only shape in which a trouble of the store leaves the sink.
    """
    try:
        yield
    except PenstockError:
        raise
    except Exception as error:
        raise OutputError(f"cannot {what} {root}: {_diagnosis(error)}") from error


def _diagnosis(error: Exception) -> str:
    cause = f"{error}".strip() or type(error).__name__
    if _lacks_credentials(error):
        return f"{cause}; check the credentials of this machine for the store"
    if isinstance(error, FileNotFoundError):
        return (
            f"{cause}; make the bucket if there is none; if there was one, something has taken objects away: run again"
        )
    return f"{cause}; run again when the store answers: what was not committed is done again"


def _lacks_credentials(error: Exception) -> bool:
    """By name, since the clients' packages need not be here."""
    return isinstance(error, PermissionError) or any("Credential" in kind.__name__ for kind in type(error).__mro__)


def _patiently(operation: Callable[[], T], hurry: threading.Event | None = None) -> T:
    """Do it, again if need be: all that is done here may be done twice.

    Args:
        operation: what is to be done.
        hurry: is set when nobody wants to wait any longer.
    """
    for pause in PAUSES:
        try:
            return operation()
        except (*_FINAL, PenstockError):
            raise
        except Exception as error:
            if _lacks_credentials(error) or (hurry is not None and hurry.is_set()):
                raise
            _logger.warning("the object store does not do what it is asked to (%s); again in %.0f s", error, pause)
        if hurry is None:
            time.sleep(pause)
        else:
            hurry.wait(pause)
    return operation()


def put(
    files: Iterable[tuple[Path, str]],
    root: UPath,
    *,
    check: Callable[[], None] = lambda: None,
    hurry: threading.Event | None = None,
) -> None:
    """Upload files, several at a time, each under a name relative to the root.

    Args:
        files: with their names.
        root: the output.
        check: is called before each try, and raises if it is not to be made.
        hurry: is set when nobody wants to wait any longer.
    """
    pairs = list(files)
    sources, targets = [str(path) for path, _ in pairs], [key_of(root, name) for _, name in pairs]

    def upload() -> None:
        check()
        root.fs.put(sources, targets)

    _patiently(upload, hurry)


def copy(names: Iterable[tuple[str, str]], root: UPath, *, check: Callable[[], None] = lambda: None) -> None:
    """Copy objects to other names inside the store, several at a time, and wait until they are there.

    Args:
        names: of what is there, and of what is to be.
        root: the output.
        check: is called before each try, and raises if it is not to be made.

    Raises:
        FileNotFoundError: one is not there.
    """
    pairs = [(key_of(root, source), key_of(root, target)) for source, target in names]
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]

    def copied() -> None:
        check()
        root.fs.copy(sources, targets)

    def arrived() -> None:
        root.fs.invalidate_cache()
        if root.fs.sizes(sources) != root.fs.sizes(targets):  # some stores copy behind one's back
            raise OSError(f"a copy of {sources[0]} is not there yet")

    if pairs:
        _patiently(copied)
        _patiently(arrived)


def write(data: bytes, root: UPath, name: str) -> None:
    """Make or replace an object."""
    _patiently(lambda: root.fs.pipe_file(key_of(root, name), data))


def create(data: bytes, root: UPath, name: str) -> bool:
    """Make an object that must not be there yet, by a conditional put where the store has one. Whether it was made.

    The data must be like no other's: a try whose answer was lost is known by it.
    """

    def made() -> bool:
        try:
            root.fs.pipe_file(key_of(root, name), data, mode="create")
        except Exception:  # clients differ in how they say that it is there
            there = _content(root, name)
            if there is None:
                raise
            return there == data
        return True

    return _patiently(made)


def read(root: UPath, name: str) -> bytes | None:
    """An object; None if it is not there."""
    return _patiently(lambda: _content(root, name))


def _content(root: UPath, name: str) -> bytes | None:
    try:
        data: bytes = root.fs.cat_file(key_of(root, name))
    except FileNotFoundError:
        return None
    return data


def read_several(names: Sequence[str], root: UPath) -> list[bytes]:
    """Objects, several at a time, in this order.

    Raises:
        FileNotFoundError: one is not there.
    """
    keys = [key_of(root, name) for name in names]
    contents: dict[str, bytes] = _patiently(lambda: root.fs.cat(keys))
    return [contents[key] for key in keys]


def remove(names: Sequence[str], root: UPath) -> None:
    """Delete objects; one that is not there is no error."""
    keys = [key_of(root, name) for name in names]
    if len(keys) > FEW:
        with contextlib.suppress(FileNotFoundError):  # some clients stop there
            _patiently(lambda: root.fs.rm(keys))
            return
    for key in keys:
        with contextlib.suppress(FileNotFoundError):
            _patiently(partial(root.fs.rm_file, key))


def remove_below(root: UPath, name: str) -> None:
    """Delete all objects whose names begin with this and a slash, or the one that has this name."""
    remove(names_below(root, name), root)


def sizes_below(root: UPath, name: str) -> dict[str, int]:
    """Bytes of all objects below one, by their names relative to the root."""
    root.fs.invalidate_cache()
    found = _patiently(lambda: root.fs.find(key_of(root, name), detail=True))
    return {key.removeprefix(key_of(root, "")): int(entry["size"]) for key, entry in found.items()}


def names_below(root: UPath, name: str) -> list[str]:
    """Names, relative to the root and sorted, of all objects below one."""
    return sorted(sizes_below(root, name))


def listed(root: UPath) -> list[tuple[str, bool]]:
    """What lies right below the root: names, sorted, and whether they are directories."""
    root.fs.invalidate_cache()
    try:
        found = _patiently(lambda: root.fs.ls(root.path, detail=True))
    except FileNotFoundError:
        return []
    entries = [(entry["name"].rstrip("/"), entry["type"] == "directory") for entry in found]
    return sorted(
        (key.removeprefix(key_of(root, "")), is_folder) for key, is_folder in entries if key != root.path.rstrip("/")
    )


def key_of(root: UPath, name: str) -> str:
    """What the file system of the store calls an object; the root may be a whole bucket, with a slash behind it."""
    return f"{root.path.rstrip('/')}/{name}"
