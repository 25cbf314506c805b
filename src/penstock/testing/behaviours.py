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
``/slow/<seconds>/<name>``              the picture, after a wait before the head
``/drip/<bytes per second>/<name>``     the picture, slowly
``/replay/<seconds>/<rate>/<name>``     the picture after a wait before the head, its body evenly at so many bytes per
                                        second (0: at once); of an unknown picture 404, after the same wait
``/flaky/<n>/<name>?id=<id>``           503 for the first n requests with this name and id, then the picture;
                                        ``&status=<code>&retry_after=<text>`` for another answer than 503
``/redirect/<n>/<name>``                n redirects, then the picture
``/status/<code>?retry_after=<text>``   that status; the query is optional
``/big?size=<n>``                       announces n bytes and sends them
``/endless``                            a body that never ends, without Content-Length
``/empty``, ``/html``                   200 without a body; 200 with a page
``/text/<text>``                        the text, in UTF-8
``/charset/<encoding>/<text>``          the text in that encoding; ``?type=<Content-Type>`` for another than ``text/plain``
``/bad/<name>``                         a file of `penstock.testing.bad_images`
``/robots.txt``                         what the server was told to answer, one of `ROBOTS`
======================================  ===========================================================================

The paths of `penstock.testing.http_faults` are answered too. Any other path, and any unknown picture: 404. A number that
is none: 400.

Clients give up on a server that is silent for too long, so ``/replay`` breaks a wait longer than `SILENCE`: by a redirect
to itself with what is left of the wait.
"""

from __future__ import annotations

import http
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, get_args
from urllib.parse import parse_qsl, quote, unquote

from penstock.testing.answers import (
    CHUNK,
    RESET_DELAY,
    Answer,
    Ask,
    Behaviour,
    End,
    Picture,
    Step,
    head,
    image,
    number,
    of_argument,
    of_ask,
    of_picture,
    pieces,
    politely,
    redirect,
    short_text,
    whole,
)
from penstock.testing.http_faults import HTTP_FAULTS

__all__ = ["ROBOTS", "SILENCE", "Behaviours", "Robots"]

DRIP_INTERVAL = 0.1
"""Seconds between two drops, unless a drop would be less than a byte."""

REPLAY_INTERVAL = 0.05
"""Seconds between two pieces of a replayed body, at most. Shorter ones would cost the server's CPU, of which it should
take little, and gain nothing: timers have a precision of a millisecond."""

AT_ONCE = 0.005
"""Seconds; a replayed body that would take less comes in one piece, with its head."""

SILENCE = 8.0
"""Seconds that ``/replay`` keeps a client waiting for a head; Penstock's own fetchers give up after 10."""

Robots = Literal["none", "allow", "forbid", "error", "slow", "huge", "garbage", "redirect"]

ROBOTS: tuple[Robots, ...] = get_args(Robots)
"""What ``/robots.txt`` can answer: 404; that all is allowed; that nothing is; 503; no answer; two megabytes of which only
the last line forbids everything; bytes without meaning; a redirect to another that forbids everything."""

_ALLOW = "User-agent: *\nAllow: /\n"
_FORBID = "User-agent: *\nDisallow: /\n"
_PAGE = b"<!doctype html><title>Not here</title><p>This picture is no longer available.\n"


def _truncated(picture: Picture) -> Answer:
    return whole(200, picture.content_type, picture.half)


def _half(picture: Picture, end: End, *further: Step) -> Answer:
    top = head(200, Content_Type=picture.content_type, Content_Length=len(picture.data))
    return Answer(top, (picture.half, *further), end)


def _short(picture: Picture) -> Answer:
    return _half(picture, End.CLOSE)


def _stall(picture: Picture) -> Answer:
    return _half(picture, End.HANG)


def _reset(picture: Picture) -> Answer:
    return _half(picture, End.RESET, RESET_DELAY)


def _slow(seconds: str, picture: Picture) -> Answer:
    return replace(image(picture), wait=number(seconds))


def _drip(argument: str, picture: Picture) -> Answer:
    rate = number(argument)
    if not rate:
        raise ValueError("a rate must be above zero")
    size = max(1, int(rate * DRIP_INTERVAL))
    drops = ((piece, size / rate) for piece in pieces(picture.data, size))
    return replace(image(picture), body=itertools.chain.from_iterable(drops))


def _paced(data: bytes, rate: float) -> Iterable[Step]:
    """`data` in equal pieces, each after the time that it takes: the last byte is due at the end of that time."""
    seconds = len(data) / rate if rate else 0.0
    if seconds < AT_ONCE:
        return (data,)
    size = math.ceil(len(data) / math.ceil(seconds / REPLAY_INTERVAL))
    return itertools.chain.from_iterable((len(piece) / rate, piece) for piece in pieces(data, size))


def _replay(pictures: Mapping[str, Picture], ask: Ask) -> Answer:
    seconds, rate, name = ask.rest.split("/", 2)
    wait, speed = number(seconds), number(rate)
    if wait > SILENCE:
        return replace(redirect(f"/replay/{wait - SILENCE:.6f}/{rate}/{quote(name)}"), wait=SILENCE)
    picture = pictures.get(name)
    if picture is None:
        return replace(short_text(http.HTTPStatus.NOT_FOUND), wait=wait)
    return replace(image(picture), wait=wait, body=_paced(picture.data, speed))


def _hops(argument: str, picture: Picture) -> Answer:
    hops, name = int(number(argument)), quote(picture.name)
    if hops == 0:
        return image(picture)
    return redirect(f"/image/{name}" if hops == 1 else f"/redirect/{hops - 1}/{name}")


def _status(ask: Ask) -> Answer:
    status = int(number(ask.rest))
    if not 200 <= status <= 599:  # a 1xx is no answer: the client would wait for the real one
        raise ValueError(f"no final status: {status}")
    wait = dict(ask.pairs).get("retry_after")
    return short_text(status) if wait is None else short_text(status, Retry_After=wait)


def _text(ask: Ask) -> Answer:
    return whole(200, "text/plain; charset=utf-8", ask.rest.encode())


def _charset(ask: Ask) -> Answer:
    encoding, _, text = ask.rest.partition("/")
    return whole(200, dict(ask.pairs).get("type", "text/plain"), text.encode(encoding))


def _big(ask: Ask) -> Answer:
    size = int(number(ask.field("size")))
    full, rest = divmod(size, len(CHUNK))
    top = head(200, Content_Type="image/jpeg", Content_Length=size)
    return Answer(top, itertools.chain(politely(itertools.repeat(CHUNK, full)), (CHUNK[:rest],)))


def _endless(_: Ask) -> Answer:
    top = head(200, Content_Type="image/jpeg", Connection="close")
    return Answer(top, politely(itertools.repeat(CHUNK)), End.CLOSE)


def _bad(ask: Ask) -> Answer:
    from penstock.testing.bad_images import BAD_IMAGES  # noqa: PLC0415 - a server of a corpus needs no Pillow

    return image(Picture(ask.rest, BAD_IMAGES[ask.rest].data))


_BEHAVIOURS: Mapping[str, Behaviour] = {
    **HTTP_FAULTS,
    "image": of_picture(image),
    "truncated": of_picture(_truncated),
    "short": of_picture(_short),
    "stall": of_picture(_stall),
    "reset": of_picture(_reset),
    "slow": of_argument(_slow),
    "drip": of_argument(_drip),
    "replay": _replay,
    "redirect": of_argument(_hops),
    "status": of_ask(_status),
    "big": of_ask(_big),
    "endless": of_ask(_endless),
    "empty": of_ask(lambda _: whole(200, "image/jpeg", b"")),
    "html": of_ask(lambda _: whole(200, "text/html; charset=utf-8", _PAGE)),
    "text": of_ask(_text),
    "charset": of_ask(_charset),
    "bad": of_ask(_bad),
}


class Behaviours:
    """The answers over one set of pictures; `flaky` remembers what it was asked.

    Args:
        pictures: What is served, by name.
        robots: What ``/robots.txt`` answers.

    >>> Behaviours({"a.png": b"..."}).answer("/image/a.png?i=1").body
    (b'...',)
    """

    def __init__(self, pictures: Mapping[str, bytes], robots: Robots = "none") -> None:
        self._pictures = {name: Picture(name, data) for name, data in pictures.items()}
        # The plain pictures are what benchmarks ask for: their answers are made once.
        self._ready = {f"/image/{quote(name)}": image(picture) for name, picture in self._pictures.items()}
        self._asked: Counter[tuple[str, str]] = Counter()
        self._robots = robots
        self._behaviours = {**_BEHAVIOURS, "flaky": self._flaky, "robots.txt": self._answer_robots}

    def answer(self, target: str) -> Answer:
        """The answer to a GET of `target`, the path and query as they stand in the request line."""
        path, _, query = target.partition("?")
        ready = self._ready.get(path)
        if ready is not None:
            return ready
        first, _, rest = path.removeprefix("/").partition("/")
        ask = Ask(unquote(rest), tuple(parse_qsl(query, keep_blank_values=True)))
        try:
            return self._behaviours[first](self._pictures, ask)
        except LookupError:
            return short_text(http.HTTPStatus.NOT_FOUND)
        except ValueError:
            return short_text(http.HTTPStatus.BAD_REQUEST)

    def _flaky(self, pictures: Mapping[str, Picture], ask: Ask) -> Answer:
        failures, _, name = ask.rest.partition("/")
        key = (name, ask.field("id"))
        picture = pictures[name]
        self._asked[key] += 1
        if self._asked[key] > number(failures):
            return image(picture)
        return _status(Ask(ask.field("status", "503"), ask.pairs))

    def _answer_robots(self, _: Mapping[str, Picture], ask: Ask) -> Answer:
        return _answer_robots("forbid" if ask.pairs else self._robots)


def _answer_robots(kind: Robots) -> Answer:
    """The redirect leads to the same path with a query, where everything is forbidden."""
    if kind in ("none", "error"):
        return short_text(404 if kind == "none" else 503)
    if kind == "slow":
        return Answer(b"", (), End.HANG)
    if kind == "redirect":
        return redirect("/robots.txt?moved=1")
    return whole(200, "text/plain", _robots_file(kind))


def _robots_file(kind: Robots) -> bytes:
    if kind == "garbage":
        return random.Random(0).randbytes(10_000)  # noqa: S311 - bytes without meaning, the same in each run
    if kind == "huge":
        return ("User-agent: *\nDisallow: /elsewhere/\n" + "# a line of nothing\n" * 100_000 + _FORBID).encode()
    return (_FORBID if kind == "forbid" else _ALLOW).encode()
