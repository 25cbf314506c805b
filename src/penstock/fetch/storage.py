"""Objects of storages, such as ``s3://`` and ``gs://``, and files: read by fsspec, under this machine's credentials.

Every read has a thread to itself, because the file systems of fsspec block. The threads are daemons of our own, as in
`penstock.fetch.dns`: one that hangs holds up neither the others nor the interpreter's exit.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import fsspec
from fsspec.registry import known_implementations

from penstock.errors import ConfigError, ItemError, MissingExtraError
from penstock.fetch.policy.urls import Target
from penstock.fetch.staff import Staff
from penstock.records import Reason

__all__ = ["Storage", "check_schemes"]

# fmt: off
_NO_STORAGES = frozenset({
    # The host of the URL decides what is connected to, and the address guard would not be asked.
    "http", "https", "ftp", "sftp", "ssh", "smb", "hdfs", "arrow_hdfs", "webhdfs", "webdav", "root", "dask", "jupyter",
    "jlab", "github", "gist", "git", "pyscript",
    # Something else inside, which nobody has allowed.
    "filecache", "simplecache", "blockcache", "cached", "zip", "tar", "libarchive", "reference", "dir", "data", "generic",
    "async_wrapper", "asyncwrapper",
})
# fmt: on

_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",  # botocore
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "DefaultCredentialsError",  # google.auth
        "RefreshError",
        "ClientAuthenticationError",  # azure.core
        "GatedRepoError",  # huggingface_hub
    }
)
"""Names of the exceptions by which clients say that they have no usable credentials: their packages need not be here."""

_NOT_FOUND = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

_MAX_CHAIN = 8
"""Exceptions looked at, from the one that came to its first cause; clients wrap theirs two or three times."""


def check_schemes(schemes: Iterable[str]) -> None:
    """See to it that the storages of ``--allow-scheme`` can be read here.

    Raises:
        ConfigError: fsspec knows no such scheme, or it is no storage.
        MissingExtraError: the storage's package is not installed.
    """
    for scheme in schemes:
        if scheme in _NO_STORAGES:
            raise ConfigError(
                f"--allow-scheme {scheme!r}: no storage, but a way to read whatever a row points at, unseen by the address "
                "guard; expected storages such as s3, gs or hf (http and https are fetched anyway)"
            )
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            raise MissingExtraError(
                f"--allow-scheme {scheme} needs another package: pip install {_package(scheme)}"
            ) from error
        except ValueError:
            raise ConfigError(
                f"--allow-scheme {scheme!r}: unknown to fsspec; expected names such as s3, gs or hf"
            ) from None


def _package(scheme: str) -> str:
    """What ``pip install`` needs: the package of the class that fsspec could not import."""
    package = str(known_implementations[scheme]["class"]).partition(".")[0]
    return "requests" if package == "fsspec" else package  # dbfs: fsspec's own class, on top of requests


class Storage:
    """Reads stored objects on daemon threads of its own.

    Args:
        threads: Reads at the same time, at most.
    """

    def __init__(self, threads: int = 32) -> None:
        self._staff: Staff[_Question] = Staff(self._answer, threads, "penstock-storage")
        self._closed = False

    def ask(self, target: Target, max_bytes: int) -> Future[bytes]:
        """The bytes of a stored object, or an `ItemError` with a ``storage.*``, ``body.*`` or ``local.*`` reason.

        Args:
            target: Of a scheme that `check_schemes` has passed.
            max_bytes: A larger object fails; no more of it than one byte beyond is read.
        """
        answer: Future[bytes] = Future()
        if self._closed:
            answer.set_exception(_closed())
        else:
            self._staff.put((target, max_bytes, answer))
        return answer

    def close(self) -> None:
        """Fail what has not begun, and let idle threads end. One that hangs in a read ends when that does."""
        self._closed = True
        self._staff.close()

    def _answer(self, question: _Question) -> None:
        target, max_bytes, answer = question
        answer.set_running_or_notify_cancel()  # from here on it cannot be cancelled, and takes its result
        result = _closed() if self._closed else _read(target, max_bytes)
        if isinstance(result, ItemError):
            answer.set_exception(result)
        else:
            answer.set_result(result)


_Question = tuple[Target, int, "Future[bytes]"]


def _closed() -> ItemError:
    return ItemError(Reason.STORAGE_ERROR, "closed")


def _read(target: Target, max_bytes: int) -> bytes | ItemError:
    try:
        system, path = fsspec.core.url_to_fs(target.url)
        data = bytes(system.cat_file(path, start=0, end=max_bytes + 1))
    except BaseException as error:  # noqa: BLE001 - clients raise what they like, CancelledError too, and the thread lives on
        return _translate(error)
    if not data:
        return ItemError(Reason.BODY_EMPTY)
    if len(data) > max_bytes:
        return ItemError(Reason.BODY_TOO_LARGE, f"more than {max_bytes} bytes", size=len(data))
    return data


def _translate(error: BaseException) -> ItemError:
    reason = next(filter(None, map(_reason, _chain(error))), Reason.STORAGE_ERROR)
    return ItemError(reason, f"{type(error).__name__}: {error}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _reason(error: BaseException) -> Reason | None:
    if isinstance(error, _NOT_FOUND):
        return Reason.STORAGE_NOT_FOUND
    if isinstance(error, PermissionError) or any(kind.__name__ in _NO_CREDENTIALS for kind in type(error).__mro__):
        return Reason.STORAGE_FORBIDDEN
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Reason.LOCAL_DESCRIPTORS
    return None
