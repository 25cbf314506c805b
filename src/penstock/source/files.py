"""Where lists lie: files, folders, globs, remote stores and standard input."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from penstock.errors import MissingExtraError, SourceError

__all__ = ["ENDINGS", "ListFile", "StandardInput", "absolute", "locate"]

CHUNK = 2**18
"""Bytes read at a time: large enough that the cost of a call vanishes, small enough to be nothing in memory."""

EDGE = 2**16
"""Bytes at either end of a file that its fingerprint covers."""

TEXT_ENDINGS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
ENDINGS = (*TEXT_ENDINGS, *(f"{ending}.gz" for ending in TEXT_ENDINGS), ".parquet")

URL = re.compile(r"\w+://[^\s'\")]+")

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
}
"""What ``pip install`` needs for a protocol, where fsspec has it in another package."""


class ListFile:
    """One file of a list, on this machine or in a remote store."""

    def __init__(self, system: Any, path: str, encoding: str = "utf-8") -> None:
        self._system = system
        self._path = path
        self.encoding = encoding
        """Of its text, if it is one."""
        self.place = _shown(system, path)
        """What messages call it: no query and no password, for these may be secrets."""
        self.name = PurePosixPath(urlsplit(path).path if _is_http(system) else path).name
        self.ending = next((e for e in sorted(ENDINGS, key=len) if self.name.lower().endswith(e)), None)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Turn what a file system, gzip or Arrow raises into a SourceError that names the file."""
        try:
            yield
        except SourceError:
            raise
        except FileNotFoundError as error:
            # For fsspec a web server that cannot be reached has no such file either.
            doubt = "" if isinstance(self._system, LocalFileSystem) else ", or its server cannot be reached"
            raise SourceError(f"{self.place}: no such file{doubt}") from error
        except Exception as error:  # remote stores and decoders raise whatever they like
            text = URL.sub(lambda url: _without_secrets(url[0]), " ".join(str(error).split()))
            raise SourceError(f"{self.place}: cannot be read, or is damaged: {text or type(error).__name__}") from error

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, open for reading at any place."""
        with self.naming(), self._system.open(self._path, "rb") as file:
            yield file

    def chunks(self) -> Iterator[bytes]:
        """The file from its beginning, unpacked if it is a ``.gz``."""
        with self.opened() as file, self._unpacked(file) as plain:
            while chunk := plain.read(CHUNK):
                yield chunk

    def _unpacked(self, file: BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
        if self.name.lower().endswith(".gz"):
            return cast("BinaryIO", gzip.GzipFile(fileobj=file))
        return contextlib.nullcontext(file)

    def fingerprint(self) -> dict[str, Any]:
        """What changes when the file does: name, size, time or tag, and a hash over both ends."""
        with self.naming():
            facts = self._system.info(self._path)
        with self.opened() as file:
            digest = hashlib.sha256(file.read(EDGE))
            # A server that cannot give parts of a file refuses to seek; then the head has to be enough.
            with contextlib.suppress(ValueError, io.UnsupportedOperation):
                file.seek(max(0, (facts["size"] or 0) - EDGE))
                digest.update(file.read(EDGE))
        mark = {"name": self.name, "size": facts["size"], "sha256": digest.hexdigest()}
        if isinstance(self._system, LocalFileSystem):
            return mark | {"mtime_ns": Path(self._path).stat().st_mtime_ns}
        return mark | {"etag": str(facts.get("ETag") or facts.get("etag") or "")}


class StandardInput(ListFile):
    """What is piped into this process; can be read once, and its first chunk looked at before."""

    def __init__(self, encoding: str) -> None:
        super().__init__(LocalFileSystem(), "-", encoding)
        self.place = "standard input"
        self._head = self._next()

    @staticmethod
    def _next() -> bytes:
        # read1 gives what has come so far: rows flow as they are written into the pipe.
        return cast("io.BufferedReader", sys.stdin.buffer).read1(CHUNK)

    @property
    def looks_like_json(self) -> bool:
        """Whether the first character is one with which an array, an object or JSON lines begin."""
        return self._head.decode(self.encoding, "ignore").lstrip("\ufeff \t\r\n")[:1] in ("[", "{")

    def chunks(self) -> Iterator[bytes]:
        """What comes in, from its beginning."""
        with self.naming():
            chunk = self._head
            while chunk:
                yield chunk
                chunk = self._next()


def absolute(location: str) -> str:
    """A path that means the same in every process; URLs stay."""
    return location if "://" in location else os.path.abspath(location)  # noqa: PTH100 - Path would resolve a/.. away


def locate(location: str, encoding: str) -> list[ListFile]:
    """The files that a path, a folder, a glob or a URL stands for, sorted by name.

    Raises SourceError if there is none or one has an unknown ending, and MissingExtraError if a protocol's package
    is missing.
    """
    system, path = _file_system(location)
    files = [ListFile(system, found, encoding) for found in _paths(system, path, location)]
    for file in files:
        if file.ending is None:
            raise SourceError(f"{file.place}: unknown ending; lists end in {', '.join(ENDINGS)}")
    return files


def _file_system(location: str) -> tuple[Any, str]:
    if "://" not in location:
        return LocalFileSystem(), location
    protocol = location.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(location)
    except ImportError as error:
        package = PACKAGES.get(protocol, protocol)
        raise MissingExtraError(f"{protocol}:// needs another package: pip install {package}") from error
    except ValueError as error:
        raise SourceError(f"{_without_secrets(location)}: {error}") from error
    return system, path


def _paths(system: Any, path: str, location: str) -> list[str]:
    if _is_http(system):  # asking a web server whether a file is a folder would download it
        return [path]
    wanted = ListFile(system, path)
    with wanted.naming():
        if system.isdir(path):
            return _children(system, path, wanted.place)
        if system.exists(path):
            return [path]
        if not any(sign in path for sign in "*?["):
            raise FileNotFoundError(location)
        matches = [found for found in sorted(system.glob(path)) if system.isfile(found) and not _is_hidden(found)]
        if not matches:
            raise SourceError(f"{wanted.place}: no file matches")
        return matches


def _children(system: Any, folder: str, place: str) -> list[str]:
    paths = sorted(entry["name"] for entry in system.ls(folder, detail=True) if entry["type"] == "file")
    lists = [path for path in paths if not _is_hidden(path) and path.lower().endswith(ENDINGS)]
    if not lists:
        raise SourceError(f"{place}: no lists in this folder; lists end in {', '.join(ENDINGS)}")
    return lists


def _is_hidden(path: str) -> bool:
    return PurePosixPath(path).name.startswith(".")


def _is_http(system: Any) -> bool:
    return "http" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def _shown(system: Any, path: str) -> str:
    return path if isinstance(system, LocalFileSystem) else _without_secrets(system.unstrip_protocol(path))


def _without_secrets(location: str) -> str:
    """A URL without its query (signatures) and user (passwords)."""
    scheme, _, rest = location.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
