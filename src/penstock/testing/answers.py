"""What an answer of the image server is made of, and the plain ones."""

from __future__ import annotations

import enum
import http
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = [
    "CHUNK",
    "RESET_DELAY",
    "Answer",
    "Ask",
    "Behaviour",
    "End",
    "Picture",
    "Step",
    "head",
    "image",
    "number",
    "of_argument",
    "of_ask",
    "of_picture",
    "pieces",
    "politely",
    "raw_head",
    "redirect",
    "short_text",
    "whole",
]

Step = bytes | float
"""Of a body: bytes to send, or seconds to wait."""

CHUNK = bytes(2**16)
"""What bodies without meaning are made of."""

RESET_DELAY = 0.05
"""Seconds between the last bytes and the reset, so that the client has read them when the reset arrives."""

_TYPES = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
_BODILESS = (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED)


class End(enum.Enum):
    """What becomes of the connection after the body."""

    KEEP = "keep"
    """It waits for the next request."""
    LEAVE = "leave"
    """It waits for the next request, and is closed when that comes: the race that every kept connection can lose."""
    CLOSE = "close"
    """It is closed in good order."""
    RESET = "reset"
    """It is torn down: the client sees ECONNRESET."""
    HANG = "hang"
    """Nothing more happens until the client gives up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, ready to be played."""

    head: bytes
    """Status line and header fields, with the empty line at their end; of a fault, whatever comes first."""
    body: Iterable[Step] = ()
    end: End = End.KEEP
    wait: float = 0.0
    """Seconds before the head."""

    def headers_only(self) -> Answer:
        """The answer to HEAD."""
        return Answer(self.head, (), End.KEEP if self.end is End.KEEP else End.CLOSE, self.wait)


@dataclass(frozen=True, slots=True)
class Picture:
    """A file that is served."""

    name: str
    data: bytes

    @property
    def content_type(self) -> str:
        """By the ending of the name."""
        return _TYPES.get(PurePosixPath(self.name).suffix.lower(), "application/octet-stream")

    @property
    def half(self) -> bytes:
        """The first half of the bytes."""
        return self.data[: len(self.data) // 2]


@dataclass(frozen=True, slots=True)
class Ask:
    """The target of a request, without its first segment."""

    rest: str
    pairs: tuple[tuple[str, str], ...]
    """Of the query, in order; names may repeat."""

    def field(self, name: str, default: str = "") -> str:
        """The last value of this name in the query."""
        return dict(self.pairs).get(name, default)


Behaviour = Callable[[Mapping[str, Picture], Ask], Answer]
"""What is answered, over these pictures by name. LookupError: there is no such thing; ValueError: it makes no sense."""


def of_picture(answer: Callable[[Picture], Answer]) -> Behaviour:
    """What follows the first segment is the name of a picture."""
    return lambda pictures, ask: answer(pictures[ask.rest])


def of_argument(answer: Callable[[str, Picture], Answer]) -> Behaviour:
    """An argument, then the name of a picture."""

    def behave(pictures: Mapping[str, Picture], ask: Ask) -> Answer:
        argument, _, name = ask.rest.partition("/")
        return answer(argument, pictures[name])

    return behave


def of_ask(answer: Callable[[Ask], Answer]) -> Behaviour:
    """No picture."""
    return lambda _, ask: answer(ask)


def raw_head(status: int, lines: Iterable[str]) -> bytes:
    """Status line and these lines, whatever is in them."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return "\r\n".join([f"HTTP/1.1 {status} {phrase}", *lines, "", ""]).encode()


def head(status: int, **fields: str | int) -> bytes:
    """Status line and header fields; ``Content_Type=`` becomes ``Content-Type:``."""
    return raw_head(status, (f"{name.replace('_', '-')}: {text}" for name, text in fields.items()))


def whole(status: int, content_type: str, data: bytes, **fields: str | int) -> Answer:
    """An honest answer: `data` and its length."""
    top = head(status, Content_Type=content_type, Content_Length=len(data), **fields)
    return Answer(top, (data,) if data else ())


def short_text(status: int, **fields: str | int) -> Answer:
    """The number of the status as text, if a body is allowed."""
    if status in _BODILESS:
        return Answer(head(status, **fields))
    return whole(status, "text/plain", f"{status}\n".encode(), **fields)


def redirect(location: str) -> Answer:
    """To anywhere."""
    # A location is sent as it was asked for, line breaks and all: what clients make of bad ones is worth testing.
    return short_text(http.HTTPStatus.FOUND, Location=location)


def image(picture: Picture) -> Answer:
    """The picture as it is."""
    return whole(200, picture.content_type, picture.data)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes, the last one shorter."""
    return (data[start : start + size] for start in range(0, len(data), size))


def politely(chunks: Iterable[bytes]) -> Iterator[Step]:
    """`chunks`, with a wait of no time after each: a chance for the other connections."""
    return itertools.chain.from_iterable((chunk, 0.0) for chunk in chunks)


def number(text: str) -> float:
    """A number of the kind that paths have; ValueError if it is none."""
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
        raise ValueError(f"no number: {text!r}")
    return float(text)
