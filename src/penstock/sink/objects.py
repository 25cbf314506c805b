"""The few things that a run asks of an object store, and the one place where its clients' errors get a diagnosis.

All of it goes through fsspec, so that any store is served for which it has a file system that writes, copies and lists.
A store has no rename and no append; an object appears as a whole, or not at all.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from penstock.errors import OutputError, PenstockError

if TYPE_CHECKING:
    from upath import UPath

__all__ = [
    "copy",
    "create",
    "listed",
    "names_below",
    "put",
    "read",
    "read_several",
    "remove",
    "remove_below",
    "storing",
    "write",
]

T = TypeVar("T")

_logger = logging.getLogger("penstock")

PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Seconds between the tries of an operation, after those of the client itself: two minutes, as long as a store's short
outages are."""

_FINAL = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
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


def _patiently(operation: Callable[[], T]) -> T:
    """Do it, again if need be: all that is done here may be done twice."""
    for pause in PAUSES:
        try:
            return operation()
        except _FINAL:
            raise
        except Exception as error:
            if _lacks_credentials(error):
                raise
            _logger.warning("the object store does not do what it is asked to (%s); again in %.0f s", error, pause)
        time.sleep(pause)
    return operation()


def put(files: Iterable[tuple[Path, str]], root: UPath) -> None:
    """Upload files, several at a time, each under a name relative to the root."""
    pairs = list(files)
    sources, targets = [str(path) for path, _ in pairs], [_key(root, name) for _, name in pairs]
    _patiently(lambda: root.fs.put(sources, targets))


def copy(names: Iterable[tuple[str, str]], root: UPath) -> None:
    """Copy objects to other names inside the store, several at a time.

    Raises:
        FileNotFoundError: one is not there.
    """
    pairs = [(_key(root, source), _key(root, target)) for source, target in names]
    _patiently(lambda: root.fs.copy([source for source, _ in pairs], [target for _, target in pairs]))


def write(data: bytes, root: UPath, name: str) -> None:
    """Make or replace an object."""
    _patiently(lambda: root.fs.pipe_file(_key(root, name), data))


def create(data: bytes, root: UPath, name: str) -> bool:
    """Make an object that must not be there yet, by a conditional put where the store has one. Whether it was made.

    The data must be like no other's: a try whose answer was lost is known by it.
    """
    try:
        _patiently(lambda: root.fs.pipe_file(_key(root, name), data, mode="create"))
    except FileExistsError:
        return read(root, name) == data
    return True


def read(root: UPath, name: str) -> bytes | None:
    """An object; None if it is not there."""
    try:
        data: bytes = _patiently(lambda: root.fs.cat_file(_key(root, name)))
    except FileNotFoundError:
        return None
    return data


def read_several(names: Sequence[str], root: UPath) -> list[bytes]:
    """Objects, several at a time, in this order.

    Raises:
        FileNotFoundError: one is not there.
    """
    keys = [_key(root, name) for name in names]
    contents: dict[str, bytes] = _patiently(lambda: root.fs.cat(keys))
    return [contents[key] for key in keys]


def remove(names: Sequence[str], root: UPath) -> None:
    """Delete objects; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        if names:
            _patiently(lambda: root.fs.rm([_key(root, name) for name in names]))


def remove_below(root: UPath, name: str) -> None:
    """Delete all objects whose names begin with this and a slash, or the one that has this name."""
    remove(names_below(root, name), root)


def names_below(root: UPath, name: str) -> list[str]:
    """Names, relative to the root and sorted, of all objects below one."""
    root.fs.invalidate_cache()
    found: list[str] = _patiently(lambda: root.fs.find(_key(root, name)))
    return sorted(key.removeprefix(_key(root, "")) for key in found)


def listed(root: UPath) -> list[tuple[str, bool]]:
    """What lies right below the root: names, sorted, and whether they are directories."""
    root.fs.invalidate_cache()
    try:
        found = _patiently(lambda: root.fs.ls(root.path, detail=True))
    except FileNotFoundError:
        return []
    entries = [(entry["name"].rstrip("/"), entry["type"] == "directory") for entry in found]
    return sorted((key.removeprefix(_key(root, "")), is_folder) for key, is_folder in entries if key != root.path)


def _key(root: UPath, name: str) -> str:
    return f"{root.path}/{name}"
