"""Exceptions of clients, sockets and TLS as reasons: none is left out."""

from __future__ import annotations

import errno
import http.client
import inspect
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import urllib3
from aiohttp import client_exceptions, http_exceptions
from urllib3 import exceptions as urllib3_exceptions
from yarl import URL

from penstock.fetch import client, pool
from penstock.fetch.faults import BlockedAddressError, translate_os_error
from penstock.fetch.policy.deadlines import Stage
from penstock.records import Reason

NOT_OURS = (aiohttp.WSServerHandshakeError, aiohttp.ContentTypeError, client_exceptions.UploadAbortedError)
"""Of websockets, of json(), of uploads: things that are never asked for."""

ARGUMENTS: dict[type[BaseException], tuple[Any, ...]] = {
    aiohttp.ClientConnectorCertificateError: (None, ssl.SSLCertVerificationError("bad")),
    aiohttp.ClientConnectorSSLError: (None, ssl.SSLError("bad")),
    client_exceptions.UnixClientConnectorError: ("path", None, OSError(errno.ENOENT, "no")),
    aiohttp.ClientConnectorError: (None, OSError(errno.ECONNREFUSED, "no")),
    aiohttp.ServerFingerprintMismatch: (b"", b"", "host", 443),
    aiohttp.ClientResponseError: (aiohttp.RequestInfo(URL("http://host/"), "GET", None, URL("http://host/")), ()),  # type: ignore[arg-type]
    aiohttp.InvalidURL: ("http://",),
    http_exceptions.LineTooLong: (b"",),
    http_exceptions.InvalidHeader: ("",),
    http_exceptions.BadStatusLine: ("",),
    http_exceptions.BadHttpMessage: ("",),
}


def exceptions_of_aiohttp() -> Iterator[BaseException]:
    for module in (client_exceptions, http_exceptions):
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, (aiohttp.ClientError, http_exceptions.HttpProcessingError)):
                if kind in NOT_OURS:
                    continue
                arguments = next((ARGUMENTS[parent] for parent in kind.__mro__ if parent in ARGUMENTS), ())
                yield kind(*arguments)


# Base classes, which aiohttp itself never raises.
BASES = (aiohttp.ClientError, aiohttp.ClientConnectionError, aiohttp.ServerConnectionError)


@pytest.mark.parametrize("stage", Stage)
def test_aiohttp_has_no_exception_without_a_reason(stage: Stage) -> None:
    """Every exception class of aiohttp's client is translated on purpose, at every stage."""
    seen = 0
    for error in exceptions_of_aiohttp():
        if type(error) not in BASES:
            seen += 1
            assert not client.translate_error(error, stage).detail.startswith("unexpected"), repr(error)
    assert seen > 20


@pytest.mark.parametrize("stage", Stage)
def test_http_client_has_no_exception_without_a_reason(stage: Stage) -> None:
    """The same for the standard library's client, which urllib3 is built on."""
    for kind in vars(http.client).values():
        if inspect.isclass(kind) and issubclass(kind, http.client.HTTPException):
            arguments = ("x",) if kind in (http.client.IncompleteRead, http.client.BadStatusLine) else ()
            if kind in (http.client.UnknownProtocol, http.client.LineTooLong):
                arguments = ("x",)
            assert not pool.translate_error(kind(*arguments), stage).detail.startswith("unexpected"), kind


WRAPPED: dict[type[Exception], tuple[Any, ...]] = {
    urllib3_exceptions.ProtocolError: ("Connection broken", http.client.IncompleteRead(b"")),
    urllib3_exceptions.SSLError: (ssl.SSLError("bad"),),
    urllib3_exceptions.ProxyError: ("Unable to connect to proxy", OSError("Tunnel connection failed: 403")),
    urllib3_exceptions.NameResolutionError: ("host", None, socket.gaierror("no")),
    urllib3_exceptions.NewConnectionError: (None, "no"),
    urllib3_exceptions.ReadTimeoutError: (None, None, "late"),
    urllib3_exceptions.IncompleteRead: (1, 2),
    urllib3_exceptions.InvalidChunkLength: (urllib3.HTTPResponse(), b"x"),
}
"""Arguments, as urllib3 gives them."""

NEVER_RAISED = (
    urllib3_exceptions.BodyNotHttplibCompatible,  # we read no chunks of our own accord
    urllib3_exceptions.DecodeError,  # nothing is decoded
    urllib3_exceptions.HTTPError,  # a base class
    urllib3_exceptions.HeaderParsingError,  # urllib3 logs it, no more
    urllib3_exceptions.PoolError,  # base of those of pools that block or are closed, of retries and redirects: all off
    urllib3_exceptions.ClosedPoolError,
    urllib3_exceptions.EmptyPoolError,
    urllib3_exceptions.FullPoolError,
    urllib3_exceptions.HostChangedError,
    urllib3_exceptions.MaxRetryError,
    urllib3_exceptions.RequestError,
    urllib3_exceptions.ResponseError,  # inside MaxRetryError only
    urllib3_exceptions.TimeoutStateError,  # of a Timeout that is used in the wrong order
    urllib3_exceptions.UnrewindableBodyError,  # requests have no bodies
)


@pytest.mark.parametrize("stage", Stage)
def test_urllib3_has_no_exception_without_a_reason(stage: Stage) -> None:
    """Every exception class of urllib3 is translated on purpose, at every stage, or has a reason why it cannot come."""
    seen = 0
    for kind in vars(urllib3_exceptions).values():
        if inspect.isclass(kind) and issubclass(kind, urllib3_exceptions.HTTPError):
            if kind in NEVER_RAISED:
                continue
            seen += 1
            error = kind(*WRAPPED.get(kind, ("text",)))
            assert not pool.translate_error(error, stage).detail.startswith("unexpected"), repr(error)
    assert seen > 10


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib3_exceptions.ProtocolError("", http.client.IncompleteRead(b"")), Reason.BODY_TRUNCATED),
        (urllib3_exceptions.ProtocolError("", urllib3_exceptions.IncompleteRead(1, 2)), Reason.BODY_TRUNCATED),
        (urllib3_exceptions.ProtocolError("", ConnectionResetError(errno.ECONNRESET, "no")), Reason.BODY_RESET),
        (urllib3_exceptions.SSLError(ssl.SSLError("bad record")), Reason.BODY_RESET),
        (urllib3_exceptions.ReadTimeoutError(None, None, "late"), Reason.TIMEOUT_IDLE),  # type: ignore[arg-type]  # no pool
    ],
)
def test_what_urllib3_wraps_counts(error: Exception, reason: Reason) -> None:
    """A truncated body, a broken connection and a silence are told apart below one and the same exception."""
    assert pool.translate_error(error, Stage.BODY).reason is reason


def test_a_bug_is_a_failure_of_the_row_and_says_so() -> None:
    """What nobody foresaw costs one row, and can be found in the details."""
    for module in (client, pool):
        failure = module.translate_error(ZeroDivisionError("bug"), Stage.BODY)
        assert failure.reason is Reason.HTTP_PROTOCOL_ERROR
        assert "unexpected ZeroDivisionError" in failure.detail


@pytest.mark.parametrize(
    ("error", "stage", "reason"),
    [
        (BlockedAddressError("no"), Stage.CONNECT, Reason.SSRF_BLOCKED),
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), Stage.CONNECT, Reason.CONNECT_REFUSED),
        (OSError(errno.ENETUNREACH, "no"), Stage.CONNECT, Reason.CONNECT_UNREACHABLE),
        (OSError(errno.EMFILE, "no"), Stage.CONNECT, Reason.LOCAL_DESCRIPTORS),
        (OSError(errno.EADDRNOTAVAIL, "no"), Stage.CONNECT, Reason.LOCAL_PORTS),
        (OSError(errno.ETIMEDOUT, "no"), Stage.CONNECT, Reason.CONNECT_TIMEOUT),
        (TimeoutError(), Stage.TLS, Reason.TLS_TIMEOUT),
        (TimeoutError(), Stage.DNS, Reason.DNS_TIMEOUT),
        (TimeoutError(), Stage.HEADERS, Reason.TIMEOUT_IDLE),
        (TimeoutError(), Stage.BODY, Reason.TIMEOUT_IDLE),
        (ConnectionResetError(errno.ECONNRESET, "no"), Stage.HEADERS, Reason.CONNECT_RESET),
        (ConnectionResetError(errno.ECONNRESET, "no"), Stage.BODY, Reason.BODY_RESET),
        (BrokenPipeError(errno.EPIPE, "no"), Stage.HEADERS, Reason.CONNECT_RESET),
        (ssl.SSLCertVerificationError("no"), Stage.TLS, Reason.TLS_CERTIFICATE),
        (ssl.SSLError("no"), Stage.TLS, Reason.TLS_PROTOCOL),
        (ssl.SSLEOFError("no"), Stage.TLS, Reason.CONNECT_RESET),
        (ssl.SSLError("no"), Stage.BODY, Reason.BODY_RESET),
    ],
)
def test_errors_of_the_system(error: OSError, stage: Stage, reason: Reason) -> None:
    """An error means what its stage makes of it."""
    assert translate_os_error(error, stage).reason is reason


def test_every_errno_is_translated() -> None:
    """Any number gives a reason of a phase that fits the stage."""
    for number in errno.errorcode:
        before = translate_os_error(OSError(number, os.strerror(number)), Stage.CONNECT)
        inside = translate_os_error(OSError(number, os.strerror(number)), Stage.BODY)
        assert before.reason.phase in ("connect", "local")
        assert inside.reason.phase == "local" or inside.reason in (
            Reason.BODY_RESET,
            Reason.TIMEOUT_IDLE,
            Reason.CONNECT_REFUSED,
        )
