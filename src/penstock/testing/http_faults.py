"""What servers do to HTTP: answers that are not what they should be.

================================  =================================================================================
path                              answer
================================  =================================================================================
``/silent``                       no answer at all; the connection stays open
``/no-answer``                    the end of the connection in place of an answer
``/reset-before-head``            a reset in place of an answer
``/reset-in-head``                half of a head, then a reset
``/drip-head/<seconds>/<name>``   the picture, its head one byte at a time, each after so many seconds
``/interim/<status>``             interim answers with this 1xx status, twenty a second, without end
``/many-headers?count=<n>``       n header fields
``/long-header?size=<n>``         a header field of n bytes
``/cookies/<n>/<name>``           the picture, with n cookies of 1 KB each
``/garbage``                      the greeting of another protocol
``/announce/<text>``              that text as Content-Length, then the end of the connection
``/two-lengths/<name>``           the picture with two Content-Lengths that differ
``/length-and-chunked/<name>``    the picture in chunks, with a Content-Length that says otherwise
``/chunked/<name>``               the picture in chunks, without Content-Length: no fault
``/surplus/<name>``               announces half of the picture and sends all of it
``/bad-chunk-size/<name>``        chunks whose size is no number
``/unfinished-chunks/<name>``     the picture in chunks, then the end of the connection in place of the last one
``/chunk-extension?size=<n>``     a chunk with an extension of n bytes
``/endless-chunks``               chunks without end
``/gzip/<name>``                  the picture with Content-Encoding gzip, asked for or not
``/encoded/<codings>/<name>``     the picture in these codings, one over the other: gzip, deflate, br, separated by
                                  commas; of any other coding, the bytes inverted
``/cut-gzip/<name>``              half of the picture's gzip stream, served as if it were whole
``/stacked/<n>/<name>``           the picture in gzip, n times
``/claimed/<coding>/<name>``      the picture as it is, with a Content-Encoding that it does not have
``/gzip-bomb?size=<n>``           n zeros in gzip: a thousandth of it goes over the wire
``/header/<name>?<name>=<text>``  the picture with these header fields in addition; Content-Type replaces the true one,
                                  and is left out if there is no text
``/race/<name>``                  the picture; the connection is kept, and closed when the next request comes
``/redirect-loop``                a redirect to itself
``/redirect-to?url=<url>``        a redirect to anywhere
================================  =================================================================================
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

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
    raw_head,
    redirect,
    whole,
)
from penstock.testing.bombs import gzip_zeros

__all__ = ["HTTP_FAULTS"]

INTERIM_INTERVAL = 0.05
"""Seconds between two interim answers: often enough to look alive, seldom enough to cost nothing."""

COOKIE = "x" * 1000

BROTLI_BLOCK = 2**16
"""Bytes in an uncompressed block of a brotli stream."""


def _count(ask: Ask, name: str, default: int) -> int:
    return int(number(ask.field(name, str(default))))


# ---- the connection


def _silent(_: Ask) -> Answer:
    return Answer(b"", (), End.HANG)


def _no_answer(_: Ask) -> Answer:
    return Answer(b"", (), End.CLOSE)


def _reset_before_head(_: Ask) -> Answer:
    return Answer(b"", (), End.RESET)


def _reset_in_head(_: Ask) -> Answer:
    return Answer(b"HTTP/1.1 200 OK\r\nContent-Type: image/j", (RESET_DELAY,), End.RESET)


def _garbage(_: Ask) -> Answer:
    return Answer(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", (), End.CLOSE)


def _race(picture: Picture) -> Answer:
    plain = image(picture)
    return Answer(plain.head, plain.body, End.LEAVE)


# ---- heads


def _drip_head(argument: str, picture: Picture) -> Answer:
    seconds, plain = number(argument), image(picture)
    drops: Iterable[Step] = itertools.chain.from_iterable((seconds, byte) for byte in pieces(plain.head, 1))
    return Answer(b"", itertools.chain(drops, plain.body))


def _interim(ask: Ask) -> Answer:
    status = int(number(ask.rest))
    if not 100 <= status <= 199:
        raise ValueError(f"no interim status: {status}")
    return Answer(head(status), itertools.cycle((INTERIM_INTERVAL, head(status))))


def _many_headers(ask: Ask) -> Answer:
    count = _count(ask, "count", 100_000)
    lines = (f"X-Flood-{index}: 0\r\n".encode() for index in range(count))
    return Answer(b"HTTP/1.1 200 OK\r\n", itertools.chain(politely(map(b"".join, _batched(lines, 1000))), (b"\r\n",)))


def _batched(lines: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    return iter(lambda: list(itertools.islice(lines, size)), [])


def _long_header(ask: Ask) -> Answer:
    full, rest = divmod(_count(ask, "size", 1_000_000), 1000)
    text: Iterable[bytes] = itertools.chain(itertools.repeat(b"x" * 1000, full), (b"x" * rest,))
    return Answer(b"HTTP/1.1 200 OK\r\nX-Long: ", itertools.chain(text, (b"\r\n\r\n",)))


def _cookies(argument: str, picture: Picture) -> Answer:
    cookies = (("Set-Cookie", f"name{index}={COOKIE}; Path=/") for index in range(int(number(argument))))
    return _with_fields(picture, cookies)


def _header(pictures: Mapping[str, Picture], ask: Ask) -> Answer:
    return _with_fields(pictures[ask.rest], ask.pairs)


def _with_fields(picture: Picture, pairs: Iterable[tuple[str, str]]) -> Answer:
    pairs = tuple(pairs)
    own = {"Content-Type": picture.content_type, "Content-Length": str(len(picture.data))}
    given = {name.title() for name, _ in pairs}
    kept = [(name, text) for name, text in own.items() if name not in given]
    lines = [f"{name}: {text}" for name, text in (*kept, *pairs) if text]
    return Answer(raw_head(200, lines), (picture.data,))


# ---- lengths and chunks


def _announce(ask: Ask) -> Answer:
    return Answer(head(200, Content_Type="image/jpeg", Content_Length=ask.rest), (), End.CLOSE)


def _two_lengths(picture: Picture) -> Answer:
    size = len(picture.data)
    lines = (f"Content-Type: {picture.content_type}", f"Content-Length: {size}", f"Content-Length: {size // 2}")
    return Answer(raw_head(200, lines), (picture.data,), End.CLOSE)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _length_and_chunked(picture: Picture) -> Answer:
    top = head(200, Content_Type=picture.content_type, Content_Length=5, Transfer_Encoding="chunked")
    return Answer(top, (_chunk(picture.data), b"0\r\n\r\n"), End.CLOSE)


def _surplus(picture: Picture) -> Answer:
    top = head(200, Content_Type=picture.content_type, Content_Length=len(picture.half))
    return Answer(top, (picture.data,), End.CLOSE)


def _in_chunks(content_type: str, chunks: Iterable[Step], end: End = End.CLOSE) -> Answer:
    return Answer(head(200, Content_Type=content_type, Transfer_Encoding="chunked"), chunks, end)


def _chunked(picture: Picture) -> Answer:
    chunks = map(_chunk, pieces(picture.data, len(CHUNK)))
    return _in_chunks(picture.content_type, itertools.chain(chunks, (b"0\r\n\r\n",)), End.KEEP)


def _bad_chunk_size(picture: Picture) -> Answer:
    return _in_chunks(picture.content_type, (_chunk(picture.half), b"some\r\n" + picture.half))


def _unfinished_chunks(picture: Picture) -> Answer:
    return _in_chunks(picture.content_type, (_chunk(picture.data),))


def _chunk_extension(ask: Ask) -> Answer:
    full, rest = divmod(_count(ask, "size", 1_000_000), 1000)
    text = itertools.chain(itertools.repeat(b"x" * 1000, full), (b"x" * rest,))
    return _in_chunks("image/jpeg", itertools.chain((b"1;name=",), text, (b"\r\nx\r\n0\r\n\r\n",)))


def _endless_chunks(_: Ask) -> Answer:
    return _in_chunks("image/jpeg", politely(itertools.repeat(_chunk(CHUNK))))


# ---- codings


def _encoded(codings: str, picture: Picture) -> Answer:
    data = picture.data
    names = codings.split(",")
    for name in names:
        data = _CODERS.get(name, _inverted)(data)
    return whole(200, picture.content_type, data, Content_Encoding=", ".join(names))


def _stacked(argument: str, picture: Picture) -> Answer:
    return _encoded(",".join(["gzip"] * int(number(argument))), picture)


def _gzipped(picture: Picture) -> Answer:
    return whole(200, picture.content_type, _packed(picture.data), Content_Encoding="gzip")


def _cut_gzip(picture: Picture) -> Answer:
    packed = _packed(picture.data)
    return whole(200, picture.content_type, packed[: len(packed) // 2], Content_Encoding="gzip")


def _claimed(coding: str, picture: Picture) -> Answer:
    return whole(200, picture.content_type, picture.data, Content_Encoding=coding)


def _gzip_bomb(ask: Ask) -> Answer:
    top = head(200, Content_Type="image/jpeg", Content_Encoding="gzip", Connection="close")
    return Answer(top, politely(gzip_zeros(_count(ask, "size", 1_000_000_000))), End.CLOSE)


def _packed(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=1, mtime=0)


def _inverted(data: bytes) -> bytes:
    return bytes(255 - byte for byte in data)


def _brotli(data: bytes) -> bytes:
    """A brotli stream of uncompressed blocks (RFC 7932, section 9): no package is needed to write one."""
    # Bits from the lowest: the window (first block only), "not the last", four nibbles of length, the length, "plain".
    # Every block is filled up to a byte after that.
    window, out = 1, []
    for block in pieces(data, BROTLI_BLOCK):
        out.append(((len(block) - 1) << 3 + window | 1 << 19 + window).to_bytes(3, "little") + block)
        window = 0
    return b"".join([*out, b"\x03"])


_CODERS: Mapping[str, Callable[[bytes], bytes]] = {"gzip": _packed, "deflate": zlib.compress, "br": _brotli}


# ---- redirects


def _redirect_loop(_: Ask) -> Answer:
    return redirect("/redirect-loop")


def _redirect_to(ask: Ask) -> Answer:
    return redirect(ask.field("url"))


HTTP_FAULTS: Mapping[str, Behaviour] = {
    "silent": of_ask(_silent),
    "no-answer": of_ask(_no_answer),
    "reset-before-head": of_ask(_reset_before_head),
    "reset-in-head": of_ask(_reset_in_head),
    "garbage": of_ask(_garbage),
    "race": of_picture(_race),
    "drip-head": of_argument(_drip_head),
    "interim": of_ask(_interim),
    "many-headers": of_ask(_many_headers),
    "long-header": of_ask(_long_header),
    "cookies": of_argument(_cookies),
    "header": _header,
    "announce": of_ask(_announce),
    "two-lengths": of_picture(_two_lengths),
    "length-and-chunked": of_picture(_length_and_chunked),
    "surplus": of_picture(_surplus),
    "chunked": of_picture(_chunked),
    "bad-chunk-size": of_picture(_bad_chunk_size),
    "unfinished-chunks": of_picture(_unfinished_chunks),
    "chunk-extension": of_ask(_chunk_extension),
    "endless-chunks": of_ask(_endless_chunks),
    "gzip": of_picture(_gzipped),
    "cut-gzip": of_picture(_cut_gzip),
    "encoded": of_argument(_encoded),
    "stacked": of_argument(_stacked),
    "claimed": of_argument(_claimed),
    "gzip-bomb": of_ask(_gzip_bomb),
    "redirect-loop": of_ask(_redirect_loop),
    "redirect-to": of_ask(_redirect_to),
}
"""By the first segment of the path."""
