"""Errors of the operating system and of TLS as reasons; what a client adds to them it translates itself."""

from __future__ import annotations

import errno
import ssl

from penstock.errors import ItemError
from penstock.fetch.policy.deadlines import Stage
from penstock.records import Reason

__all__ = ["BlockedAddressError", "translate_os_error"]

_UNREACHABLE = frozenset(
    {
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)

_LOCAL = {
    errno.EMFILE: Reason.LOCAL_DESCRIPTORS,
    errno.ENFILE: Reason.LOCAL_DESCRIPTORS,
    errno.EADDRNOTAVAIL: Reason.LOCAL_PORTS,
    errno.ENOBUFS: Reason.LOCAL_PORTS,
    errno.ENOMEM: Reason.LOCAL_PORTS,
}
"""This machine's fault, and not the host's."""

_TIMEOUTS = {
    Stage.DNS: Reason.DNS_TIMEOUT,
    Stage.CONNECT: Reason.CONNECT_TIMEOUT,
    Stage.TLS: Reason.TLS_TIMEOUT,
}


class BlockedAddressError(OSError):
    """Raised right before connecting to an address that the guard forbids: to a client it is one that does not answer."""


_KINDS = (
    (BlockedAddressError, Reason.SSRF_BLOCKED),
    (ssl.SSLCertVerificationError, Reason.TLS_CERTIFICATE),
    (ConnectionRefusedError, Reason.CONNECT_REFUSED),
)


def translate_os_error(error: OSError, stage: Stage, *, ipv6: bool = False) -> ItemError:
    """The failure that an error of a socket or of TLS means at this stage of an attempt.

    Args:
        error: as it was raised.
        stage: where the attempt stood.
        ipv6: the address was one of IPv6. A machine without any has no address to connect from either.
    """
    detail = f"{type(error).__name__}: {error.strerror or error}"
    if ipv6 and error.errno == errno.EADDRNOTAVAIL:
        return ItemError(Reason.CONNECT_UNREACHABLE, detail)
    return ItemError(_reason(error, stage), detail)


def _reason(error: OSError, stage: Stage) -> Reason:
    for kind, reason in _KINDS:
        if isinstance(error, kind):
            return reason
    if error.errno in _LOCAL:
        return _LOCAL[error.errno]
    if stage is Stage.BODY:
        return Reason.TIMEOUT_IDLE if isinstance(error, TimeoutError) else Reason.BODY_RESET
    if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Reason.TLS_PROTOCOL
    if isinstance(error, TimeoutError):  # ETIMEDOUT as well, by which the kernel gives up
        return _TIMEOUTS.get(stage, Reason.TIMEOUT_IDLE)
    return Reason.CONNECT_UNREACHABLE if error.errno in _UNREACHABLE else Reason.CONNECT_RESET
