"""What an answer's head and body mean; the same for every client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock import __version__
from penstock.fetch.policy.retry import AttemptError, classify_status, parse_retry_after
from penstock.fetch.policy.urls import Target, redirect
from penstock.records import Reason

__all__ = ["HEADERS", "Body", "Head", "check_body", "read_head"]

PROJECT_URL = "https://github.com/penstock/penstock"

HEADERS = {
    "Accept": "image/*,*/*;q=0.8",
    "Accept-Encoding": "identity",
    "User-Agent": f"penstock/{__version__} (+{PROJECT_URL})",
}
"""Sent with every request."""

_FOLLOWED = (301, 302, 303, 307, 308)

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cJXL ", b"\xff\x0a")


@dataclass(frozen=True, slots=True)
class Head:
    """An answer whose body is wanted."""

    status: int
    length: int | None
    """Bytes announced; None if the end of the body will tell."""
    encoded: bool
    """Whether a Content-Encoding is claimed that was not asked for."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer."""

    data: bytes
    status: int


def read_head(status: int, headers: Mapping[str, str], target: Target, hops: int, max_bytes: int) -> Head | Target:
    """What follows from status and headers: a body to read, or a redirect to follow.

    `headers` must look names up regardless of case.

    Raises:
        ItemError: if the answer is a failure.
    """
    if status in _FOLLOWED:
        return redirect(target, headers.get("Location"), hops)
    reason = classify_status(status, headers)
    if reason is not None:
        wait = parse_retry_after(headers.get("Retry-After"))
        raise AttemptError(reason, f"HTTP {status}", http_status=status, host_key=target.host_key, retry_after=wait)
    length = _length(headers, status)
    if length is not None and length > max_bytes:
        raise AttemptError(Reason.BODY_TOO_LARGE, f"Content-Length {length}", http_status=status)
    coding = headers.get("Content-Encoding", "").strip().lower()
    return Head(status, length, encoded=coding not in ("", "identity"))


def check_body(data: bytes, head: Head) -> Body:
    """A body that is whole.

    Raises:
        AttemptError: ``body.truncated``, ``body.empty`` or ``http.encoding``.
    """
    size = len(data)
    if head.length is not None and size < head.length:
        raise AttemptError(Reason.BODY_TRUNCATED, f"{size} of {head.length} bytes", http_status=head.status, size=size)
    if not data:
        raise AttemptError(Reason.BODY_EMPTY, http_status=head.status)
    if head.encoded and not _looks_like_image(data):  # some servers claim gzip and send the plain file
        raise AttemptError(Reason.HTTP_ENCODING, http_status=head.status, size=size)
    return Body(data, head.status)


def _length(headers: Mapping[str, str], status: int) -> int | None:
    """Announced size; chunked coding overrides Content-Length."""
    text = headers.get("Content-Length")
    if text is None or "chunked" in headers.get("Transfer-Encoding", "").lower():
        return None
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise AttemptError(Reason.HTTP_PROTOCOL_ERROR, f"Content-Length {text[:40]!r}", http_status=status)
    return int(text)


def _looks_like_image(data: bytes) -> bool:
    return data.startswith(_MAGIC) or data[8:12] == b"WEBP" or data[4:8] == b"ftyp"
