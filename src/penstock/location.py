"""Where the output of a run lies: a folder of this machine, or a prefix of an object store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote, urlsplit

from penstock.errors import ConfigError, MissingExtraError, OutputError, PenstockError

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["Location", "local_folder", "location_of", "reading"]

Location: TypeAlias = "Path | UPath"
"""A `pathlib.Path`, or what has its face for a store: ``UPath("s3://bucket/folder")`` of universal_pathlib."""

_LOCAL = ("file", "local")
_NOT_WRITTEN = ("http", "https", "ftp", "data")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""Of Penstock, by scheme."""


def location_of(out: str | os.PathLike[str] | Location) -> Location:
    """What `out` names: a path, or with ``://`` an object store that fsspec knows.

    >>> location_of("file:///tmp/out")
    PosixPath('/tmp/out')

    Raises:
        ConfigError: no output can lie there.
        MissingExtraError: a package is needed; the message has the pip line.
    """
    if isinstance(out, Path):
        return out
    text = os.fspath(out) if isinstance(out, os.PathLike) else str(out)
    if "://" not in text:
        return Path(text)
    if getattr(out, "storage_options", None):
        raise ConfigError(
            f"{text}: the storage options of a UPath do not reach lanes and workers; set them by the variables of the "
            "store's client, or in fsspec's configuration"
        )
    scheme = text.partition("://")[0]
    if scheme in _LOCAL:
        return _local(text)
    if scheme in _NOT_WRITTEN:
        raise ConfigError(f"{text}: nothing can be written there; expected a folder, or an object store such as s3://")
    if not text.partition("://")[2].strip("/"):
        raise ConfigError(f"{text}: no bucket; expected something like {scheme}://bucket/folder")
    if any(sign in text for sign in "*?["):
        raise ConfigError(f"{text}: stores take *, ? and [ for patterns; choose another name")
    return _store(text.rstrip("/"), scheme)


def _local(text: str) -> Path:
    url = urlsplit(text)
    if url.netloc not in ("", "localhost"):
        raise ConfigError(f"{text}: a file on another machine; for one of this machine there are three slashes")
    return Path(unquote(url.path))


def _store(text: str, scheme: str) -> UPath:
    try:
        from upath import UPath  # noqa: PLC0415 - only where it is chosen

        root = UPath(text)
        system = root.fs
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        needed = f"'penstock[{extra}]'" if extra else f"universal_pathlib, and fsspec's package for {scheme}"
        raise MissingExtraError(f"{scheme}:// needs another package: pip install {needed}") from error
    except ValueError as error:
        raise ConfigError(
            f"{text}: {error}; expected a folder, or an object store such as s3://bucket/folder"
        ) from error
    system.invalidate_cache()  # others may have written there since this process looked last
    return root


@contextlib.contextmanager
def reading(location: Location) -> Iterator[None]:
    """Turns whatever a store's client raises inside into an OutputError that names the store; errors of a disk stay as they are."""
    try:
        yield
    except PenstockError:
        raise
    except Exception as error:
        if isinstance(location, Path):
            raise
        raise OutputError(f"cannot read {location}: {error!r}; run again when the store answers") from error


def local_folder(folder: str | os.PathLike[str], needs: str) -> Path:
    """The folder, for what can only work on files of this machine.

    Args:
        folder: of a run.
        needs: what needs the files; the message begins with it.

    Raises:
        ConfigError: it lies in a store.
    """
    location = location_of(folder)
    if not isinstance(location, Path):
        raise ConfigError(
            f"{needs} needs the files on this machine, and {location} is an object store: copy it here first"
        )
    return location
