"""Exceptions of clients, sockets and TLS as reasons: none is left out."""

from __future__ import annotations

import errno
import http.client
import inspect
import os
import ssl
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
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
    """The same for the standard library's client."""
    for kind in vars(http.client).values():
        if inspect.isclass(kind) and issubclass(kind, http.client.HTTPException):
            arguments = ("x",) if kind in (http.client.IncompleteRead, http.client.BadStatusLine) else ()
            if kind in (http.client.UnknownProtocol, http.client.LineTooLong):
                arguments = ("x",)
            assert not pool.translate_error(kind(*arguments), stage).detail.startswith("unexpected"), kind


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
        (OSError(errno.EMFILE, "no"), Stage.CONNECT, Reason.CONNECT_UNREACHABLE),
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
        assert before.reason.phase == "connect"
        assert inside.reason in (Reason.BODY_RESET, Reason.TIMEOUT_IDLE, Reason.CONNECT_REFUSED)
