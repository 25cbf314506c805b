"""What the image server answers: every path is a behaviour.

It decides and does no I/O: from the target of a request to an `Answer`, which `penstock.testing.connection` plays.

======================================  ===========================================================================
path                                    answer
======================================  ===========================================================================
``/image/<name>``                       the picture; any query is ignored, so that lists can have distinct URLs
``/truncated/<name>``                   the picture cut in its middle, served as if it were whole
``/short/<name>``                       a body shorter than its Content-Length, then the end of the connection
``/stall/<name>``                       half of the body, then silence
``/reset/<name>``                       half of the body, then a reset of the connection
``/chunked/<name>``                     the picture in chunks, without Content-Length
``/gzip/<name>``                        the picture with Content-Encoding gzip, asked for or not
``/slow/<seconds>/<name>``              the picture, after a wait before the head
``/drip/<bytes per second>/<name>``     the picture, slowly
``/replay/<seconds>/<rate>/<name>``     the picture after a wait before the head, its body evenly at so many bytes per
                                        second (0: at once); of an unknown picture 404, after the same wait
``/flaky/<n>/<name>?id=<id>``           503 for the first n requests with this name and id, then the picture
``/redirect/<n>/<name>``                n redirects, then the picture
``/redirect-to?url=<url>``              a redirect to anywhere
``/status/<code>?retry_after=<text>``   that status; the query is optional
``/big?size=<n>``                       announces n bytes and sends them
``/endless``                            a body that never ends, without Content-Length
``/empty``, ``/html``                   200 without a body; 200 with a page
``/text/<text>``                        the text, in UTF-8
======================================  ===========================================================================

Any other path, and any unknown picture: 404. A number that is none: 400.

Clients give up on a server that is silent for too long, so ``/replay`` breaks a wait longer than `SILENCE`: by a redirect
to itself with what is left of the wait.
"""

from __future__ import annotations

import enum
import gzip
import http
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import parse_qs, quote, unquote

__all__ = ["SILENCE", "Answer", "Behaviours", "End", "Step", "whole"]

Step = bytes | float
"""Of a body: bytes to send, or seconds to wait."""

CHUNK = bytes(2**16)
"""What bodies without meaning are made of."""

RESET_DELAY = 0.05
"""Seconds between the last bytes and the reset, so that the client has read them when the reset arrives."""

DRIP_INTERVAL = 0.1
"""Seconds between two drops, unless a drop would be less than a byte."""

REPLAY_INTERVAL = 0.05
"""Seconds between two pieces of a replayed body, at most. Shorter ones would cost the server's CPU, of which it should
take little, and gain nothing: timers have a precision of a millisecond."""

AT_ONCE = 0.005
"""Seconds; a replayed body that would take less comes in one piece, with its head."""

SILENCE = 8.0
"""Seconds that ``/replay`` keeps a client waiting for a head; Penstock's own fetchers give up after 10."""

_TYPES = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
_BODILESS = (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED)
_PAGE = b"<!doctype html><title>Not here</title><p>This picture is no longer available.\n"


class End(enum.Enum):
    """What becomes of the connection after the body."""

    KEEP = "keep"
    """It waits for the next request."""
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
    """Status line and header fields, with the empty line at their end."""
    body: Iterable[Step] = ()
    end: End = End.KEEP
    wait: float = 0.0
    """Seconds before the head."""

    def headers_only(self) -> Answer:
        """The answer to HEAD."""
        return Answer(self.head, (), End.KEEP if self.end is End.KEEP else End.CLOSE, self.wait)


@dataclass(frozen=True, slots=True)
class _Picture:
    name: str
    data: bytes

    @property
    def content_type(self) -> str:
        return _TYPES.get(PurePosixPath(self.name).suffix.lower(), "application/octet-stream")

    @property
    def half(self) -> bytes:
        return self.data[: len(self.data) // 2]


@dataclass(frozen=True, slots=True)
class _Ask:
    """The target of a request, without its first segment."""

    rest: str
    query: Mapping[str, str]


def _head(status: int, **fields: str | int) -> bytes:
    """Status line and header fields; ``Content_Type=`` becomes ``Content-Type:``."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name.replace('_', '-')}: {text}" for name, text in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(status: int, content_type: str, data: bytes, **fields: str | int) -> Answer:
    """An honest answer: `data` and its length."""
    head = _head(status, Content_Type=content_type, Content_Length=len(data), **fields)
    return Answer(head, (data,) if data else ())


def _short_text(status: int, **fields: str | int) -> Answer:
    if status in _BODILESS:
        return Answer(_head(status, **fields))
    return whole(status, "text/plain", f"{status}\n".encode(), **fields)


def _redirect(location: str) -> Answer:
    # A location is sent as it was asked for, line breaks and all: what clients make of bad ones is worth testing.
    return _short_text(http.HTTPStatus.FOUND, Location=location)


def _image(picture: _Picture) -> Answer:
    return whole(200, picture.content_type, picture.data)


def _truncated(picture: _Picture) -> Answer:
    return whole(200, picture.content_type, picture.half)


def _half(picture: _Picture, end: End, *further: Step) -> Answer:
    head = _head(200, Content_Type=picture.content_type, Content_Length=len(picture.data))
    return Answer(head, (picture.half, *further), end)


def _short(picture: _Picture) -> Answer:
    return _half(picture, End.CLOSE)


def _stall(picture: _Picture) -> Answer:
    return _half(picture, End.HANG)


def _reset(picture: _Picture) -> Answer:
    return _half(picture, End.RESET, RESET_DELAY)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _chunked(picture: _Picture) -> Answer:
    head = _head(200, Content_Type=picture.content_type, Transfer_Encoding="chunked")
    chunks = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(picture.data, len(CHUNK)))
    return Answer(head, itertools.chain(chunks, (b"0\r\n\r\n",)))


def _gzip(picture: _Picture) -> Answer:
    packed = gzip.compress(picture.data, compresslevel=1, mtime=0)
    return whole(200, picture.content_type, packed, Content_Encoding="gzip")


def _drip(picture: _Picture, rate: float) -> Answer:
    if not rate:
        raise ValueError("a rate must be above zero")
    size = max(1, int(rate * DRIP_INTERVAL))
    drops = ((piece, size / rate) for piece in _pieces(picture.data, size))
    return replace(_image(picture), body=itertools.chain.from_iterable(drops))


def _paced(data: bytes, rate: float) -> Iterable[Step]:
    """`data` in equal pieces, each after the time that it takes: the last byte is due at the end of that time."""
    seconds = len(data) / rate if rate else 0.0
    if seconds < AT_ONCE:
        return (data,)
    size = math.ceil(len(data) / math.ceil(seconds / REPLAY_INTERVAL))
    return itertools.chain.from_iterable((len(piece) / rate, piece) for piece in _pieces(data, size))


def _status(ask: _Ask) -> Answer:
    status = int(_number(ask.rest))
    if not 200 <= status <= 599:  # a 1xx is no answer: the client would wait for the real one
        raise ValueError(f"no final status: {status}")
    return _short_text(status, **({"Retry_After": ask.query["retry_after"]} if "retry_after" in ask.query else {}))


def _redirect_to(ask: _Ask) -> Answer:
    return _redirect(ask.query.get("url", ""))


def _text(ask: _Ask) -> Answer:
    return whole(200, "text/plain; charset=utf-8", ask.rest.encode())


def _big(ask: _Ask) -> Answer:
    size = int(_number(ask.query.get("size", "")))
    full, rest = divmod(size, len(CHUNK))
    head = _head(200, Content_Type="image/jpeg", Content_Length=size)
    return Answer(head, itertools.chain(_politely(itertools.repeat(CHUNK, full)), (CHUNK[:rest],)))


def _endless(_: _Ask) -> Answer:
    head = _head(200, Content_Type="image/jpeg", Connection="close")
    return Answer(head, _politely(itertools.repeat(CHUNK)), End.CLOSE)


def _politely(chunks: Iterable[bytes]) -> Iterator[Step]:
    """`chunks`, with a wait of no time after each: a chance for the other connections."""
    return itertools.chain.from_iterable((chunk, 0.0) for chunk in chunks)


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
        raise ValueError(f"no number: {text!r}")
    return float(text)


_OF_PICTURE: Mapping[str, Callable[[_Picture], Answer]] = {
    "image": _image,
    "truncated": _truncated,
    "short": _short,
    "stall": _stall,
    "reset": _reset,
    "chunked": _chunked,
    "gzip": _gzip,
}
_OF_QUERY: Mapping[str, Callable[[_Ask], Answer]] = {
    "status": _status,
    "redirect-to": _redirect_to,
    "text": _text,
    "big": _big,
    "endless": _endless,
    "empty": lambda _: whole(200, "image/jpeg", b""),
    "html": lambda _: whole(200, "text/html; charset=utf-8", _PAGE),
}


class Behaviours:
    """The answers over one set of pictures; `flaky` remembers what it was asked.

    >>> Behaviours({"a.png": b"..."}).answer("/image/a.png?i=1").body
    (b'...',)
    """

    def __init__(self, pictures: Mapping[str, bytes]) -> None:
        self._pictures = {name: _Picture(name, data) for name, data in pictures.items()}
        # The plain pictures are what benchmarks ask for: their answers are made once.
        self._ready = {f"/image/{quote(name)}": _image(picture) for name, picture in self._pictures.items()}
        self._asked: Counter[tuple[str, str]] = Counter()
        self._numbered: Mapping[str, Callable[[float, _Picture, _Ask], Answer]] = {
            "slow": lambda seconds, picture, _: replace(_image(picture), wait=seconds),
            "drip": lambda rate, picture, _: _drip(picture, rate),
            "redirect": lambda hops, picture, _: self._hop(int(hops), picture),
            "flaky": self._flaky,
        }

    def answer(self, target: str) -> Answer:
        """The answer to a GET of `target`, the path and query as they stand in the request line."""
        path, _, query = target.partition("?")
        ready = self._ready.get(path)
        if ready is not None:
            return ready
        first, _, rest = path.removeprefix("/").partition("/")
        fields = {name: texts[-1] for name, texts in parse_qs(query, keep_blank_values=True).items()}
        try:
            return self._route(first, _Ask(unquote(rest), fields))
        except LookupError:
            return _short_text(http.HTTPStatus.NOT_FOUND)
        except ValueError:
            return _short_text(http.HTTPStatus.BAD_REQUEST)

    def _route(self, first: str, ask: _Ask) -> Answer:
        if first in _OF_PICTURE:
            return _OF_PICTURE[first](self._pictures[ask.rest])
        if first in self._numbered:
            number, _, name = ask.rest.partition("/")
            return self._numbered[first](_number(number), self._pictures[name], ask)
        return self._replay(ask) if first == "replay" else _OF_QUERY[first](ask)

    def _replay(self, ask: _Ask) -> Answer:
        seconds, rate, name = ask.rest.split("/", 2)
        wait, speed = _number(seconds), _number(rate)
        if wait > SILENCE:
            return replace(_redirect(f"/replay/{wait - SILENCE:.6f}/{rate}/{quote(name)}"), wait=SILENCE)
        picture = self._pictures.get(name)
        if picture is None:
            return replace(_short_text(http.HTTPStatus.NOT_FOUND), wait=wait)
        return replace(_image(picture), wait=wait, body=_paced(picture.data, speed))

    def _hop(self, hops: int, picture: _Picture) -> Answer:
        if hops == 0:
            return _image(picture)
        name = quote(picture.name)
        return _redirect(f"/image/{name}" if hops == 1 else f"/redirect/{hops - 1}/{name}")

    def _flaky(self, failures: float, picture: _Picture, ask: _Ask) -> Answer:
        key = (picture.name, ask.query.get("id", ""))
        self._asked[key] += 1
        return _short_text(503) if self._asked[key] <= failures else _image(picture)
