"""What an answer's head and body mean; the same for every client."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from penstock import __version__
from penstock.fetch.policy.optout import Values, reservation
from penstock.fetch.policy.retry import AttemptError, classify_status, parse_retry_after
from penstock.fetch.policy.urls import Target, UrlRules, redirect
from penstock.records import Reason

__all__ = ["HEADERS", "Body", "Head", "Wish", "check_body", "read_head"]

PROJECT_URL = "https://github.com/penstock/penstock"

HEADERS = {
    "Accept": "image/*,*/*;q=0.8",
    "Accept-Encoding": "identity",
    "User-Agent": f"penstock/{__version__} (+{PROJECT_URL})",
}
"""Sent with every request."""

_GZIP_OR_ZLIB = 47
"""The `wbits` by which zlib tells gzip and zlib streams apart by itself."""

_FOLLOWED = (301, 302, 303, 307, 308)

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cJXL ", b"\xff\x0a")


@dataclass(frozen=True, slots=True)
class Head:
    """An answer whose body is wanted."""

    status: int
    length: int | None
    """Bytes announced; None if the end of the body will tell."""
    coding: str = ""
    """The Content-Encoding that is claimed though it was not asked for."""
    server_type: str = ""
    """The Content-Type."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer."""

    data: bytes
    status: int | None = None
    """None if it is no web server's."""
    server_type: str = ""
    """The answer's Content-Type."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for."""

    target: Target
    hops: int
    """Redirects that led to the target."""
    max_bytes: int
    cut: bool
    """A larger body is cut, and an empty one is no failure: a robots.txt."""
    heed: bool
    """Opt-outs that answers state are respected."""
    rules: UrlRules


def read_head(status: int, values: Values, wish: Wish) -> Head | Target:
    """What follows from status and headers: a body to read, or a redirect to follow.

    Args:
        status: of the answer.
        values: all values of a header field, by its name in any case.
        wish: what was asked for.

    Raises:
        ItemError: if the answer is a failure, or refuses.
    """
    if status in _FOLLOWED:
        return redirect(wish.target, _first(values, "Location"), wish.hops, wish.rules)
    retry_after = _first(values, "Retry-After")
    reason = classify_status(status, retry_after)
    if reason is not None:
        raise AttemptError(reason, f"HTTP {status}", http_status=status, retry_after=parse_retry_after(retry_after))
    refusal = reservation(values) if wish.heed else None
    if refusal is not None:
        refusal.http_status = status
        raise refusal
    length = _length(values, status)
    if length is not None and length > wish.max_bytes:
        if not wish.cut:
            raise AttemptError(Reason.BODY_TOO_LARGE, f"Content-Length {length}", http_status=status)
        length = None
    coding = (_first(values, "Content-Encoding") or "").strip().lower()
    return Head(status, length, "" if coding == "identity" else coding, (_first(values, "Content-Type") or "")[:100])


def check_body(data: bytes, head: Head, wish: Wish) -> Body:
    """A body that is whole, and decoded if it has to be.

    Raises:
        AttemptError: ``body.truncated``, ``body.empty``, ``body.too_large`` or ``http.encoding``.
    """
    size = len(data)
    if head.length is not None and size < head.length:
        raise AttemptError(Reason.BODY_TRUNCATED, f"{size} of {head.length} bytes", http_status=head.status, size=size)
    if not data and not wish.cut:
        raise AttemptError(Reason.BODY_EMPTY, http_status=head.status)
    if head.coding and not _looks_like_image(data):  # some servers claim gzip and send the plain file
        data = _decoded(data, head, wish)
    return Body(data, head.status, head.server_type)


def _decoded(data: bytes, head: Head, wish: Wish) -> bytes:
    """The content of a body that came compressed though nobody asked for it: one coding, and a bounded size."""
    size = len(data)
    if head.coding not in ("gzip", "x-gzip", "deflate"):
        raise AttemptError(Reason.HTTP_ENCODING, head.coding, http_status=head.status, size=size)
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        content = unpacker.decompress(data, wish.max_bytes + 1)
    except zlib.error as error:
        raise AttemptError(Reason.HTTP_ENCODING, str(error), http_status=head.status, size=size) from error
    if wish.cut:
        return content[: wish.max_bytes]
    if len(content) > wish.max_bytes:
        raise AttemptError(Reason.BODY_TOO_LARGE, f"unpacked from {size} bytes", http_status=head.status, size=size)
    if not unpacker.eof:
        raise AttemptError(Reason.HTTP_ENCODING, f"{head.coding} without an end", http_status=head.status, size=size)
    return content


def _first(values: Values, name: str) -> str | None:
    return next(iter(values(name)), None)


def _length(values: Values, status: int) -> int | None:
    """Announced size; None if the end of the body will tell."""
    text = _first(values, "Content-Length")
    chunked = "chunked" in (_first(values, "Transfer-Encoding") or "").lower()
    if chunked and text is not None:  # which of them counts is what smugglers rely on
        raise AttemptError(Reason.HTTP_PROTOCOL_ERROR, "both chunked and Content-Length", http_status=status)
    if text is None:
        return None
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise AttemptError(Reason.HTTP_PROTOCOL_ERROR, f"Content-Length {text[:40]!r}", http_status=status)
    return int(text)


def _looks_like_image(data: bytes) -> bool:
    return data.startswith(_MAGIC) or data[8:12] == b"WEBP" or data[4:8] == b"ftyp"
