"""Bytes → text: in which encoding a downloaded text is, and who says so."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

from penstock.errors import ItemError
from penstock.records import Reason

__all__ = ["DecodedText", "decode_text"]

SAMPLE = 2**16
"""Bytes from which an encoding is guessed: more make the guess no better, and each costs time for every candidate."""

_BOMS = (  # those of UTF-32 first: one of them begins as one of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)

_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s;"']+)""", re.IGNORECASE)

_AS_BROWSERS_READ = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""What servers declare, and what the web has always read for it: larger sets, in which the texts are in fact written
(https://encoding.spec.whatwg.org, "Names and labels")."""

_NOT_DECLARED = frozenset(
    ["idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7", "mbcs", "oem"]
)
"""What Python calls text encodings too, and no text on the web is in; some take a time that grows with the square."""

_GUESSED = (  # noqa: SIM905 - two lines that are read as a whole, where a list takes 23
    "cp1252 gb18030 cp932 euc_jp cp949 big5hkscs cp1251 koi8_r koi8_u cp866 cp1250 cp1253 cp1254 cp1255 cp1256 cp1257 "
    "cp1258 cp874 iso8859_2 iso8859_7 iso8859_15 iso2022_jp mac_cyrillic"
).split()
"""What the web's older texts are in, those that are likeliest first: where nothing else decides, that does. UTF-16 is not
among them: any few bytes are valid in it, so nothing but a byte order mark or a declaration speaks for it."""

_KANA = re.compile(r"[\u3041-\u30fe]")
JAPANESE = ("cp932", "euc_jp", "iso2022_jp")

_CONTROLS = re.compile(r"[\0-\x07\x0e-\x19\x1c-\x1f]")
"""Without the blanks, backspace, escape and the end of file of DOS, which occur in texts."""

MOST_CONTROLS = 0.01
"""Share of control characters above which it is no text."""


class DecodedText(NamedTuple):
    """A text, and in which encoding it came."""

    text: str
    """Without a byte order mark; newlines as they were."""
    encoding: str
    """The name that Python has for it."""
    encoding_from: str
    """See `PartOutcome.encoding_from`."""


def decode_text(data: bytes, *, charset: str | None = None, content_type: str = "") -> DecodedText:
    r"""The text of some bytes, in the first of these encodings in which all of them are valid.

    The one that is given, and then no other; that of the byte order mark; the declared one; UTF-8; the detected one.

    >>> decode_text(b"caf\xe9", content_type="text/plain; charset=ISO-8859-1")
    DecodedText(text='café', encoding='cp1252', encoding_from='declared')

    Args:
        data: what was downloaded.
        charset: the encoding of all texts, if the user gives one.
        content_type: as the server sent it.

    Raises:
        ItemError: `Reason.CONTENT_NOT_TEXT` if there is no such encoding, or if what comes out is no text.
    """
    for encoding, origin in _candidates(data, charset, content_type):
        text = _decoded(data, encoding)
        if text is not None:
            _check_text(text, encoding)
            return DecodedText(text, encoding, origin)
    said = f"not {charset}, which is given" if charset else "in no encoding that fits"
    raise ItemError(Reason.CONTENT_NOT_TEXT, said + (f" (the server said {content_type})" if content_type else ""))


def _candidates(data: bytes, charset: str | None, content_type: str) -> Iterator[tuple[str, str]]:
    if charset is not None:
        yield charset, "given"
        return
    yield from ((encoding, "bom") for mark, encoding in _BOMS if data.startswith(mark))
    declared = _declared(content_type)
    if declared is not None:
        yield declared, "declared"
    yield "utf-8", "utf-8"
    detected = _detected(data)
    if detected is not None:
        yield detected, "detected"


def _declared(content_type: str) -> str | None:
    """The encoding that a Content-Type names, if Python knows it."""
    match = _CHARSET.search(content_type)
    if match is None:
        return None
    try:
        name = codecs.lookup(match[1]).name
    except (LookupError, ValueError):
        return None
    return None if name in _NOT_DECLARED else _AS_BROWSERS_READ.get(name, name)


def _detected(data: bytes) -> str | None:
    """What the bytes look like; None for those that no text has."""
    if b"\0" in data:
        return None
    from charset_normalizer import from_bytes  # noqa: PLC0415 - most workers never need it

    sample = data[:SAMPLE]
    if len(data) > SAMPLE:  # not cut inside a character, if that can be helped
        sample = sample[: max(sample.rfind(b"\n"), sample.rfind(b" ")) + 1] or sample
    found = {match.encoding: match for match in from_bytes(sample, cp_isolation=_GUESSED)}
    ranked = sorted(
        (not _is_japanese(encoding, str(match)), match.chaos, -match.coherence, _GUESSED.index(encoding))
        for encoding, match in found.items()
        if encoding in _GUESSED
    )
    return codecs.lookup(_GUESSED[ranked[0][-1]]).name if ranked else None


def _is_japanese(encoding: str, text: str) -> bool:
    """Kana everywhere does not come by chance, but the detector takes such bytes for Korean."""
    others = sum(1 for character in text if character > "\x7f")
    return encoding in JAPANESE and sum(1 for _ in _KANA.finditer(text)) > 0.2 * others


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except (UnicodeError, LookupError):  # LookupError: a codec of bytes, such as "hex"
        return None


def _check_text(text: str, encoding: str) -> None:
    """Raise ItemError for what is valid and no text all the same: in single-byte encodings every byte is valid."""
    controls = sum(1 for _ in _CONTROLS.finditer(text))
    if "\0" in text or controls > MOST_CONTROLS * len(text):
        what = "a NUL character" if "\0" in text else f"{controls} control characters"
        raise ItemError(Reason.CONTENT_NOT_TEXT, f"{what} in {len(text)}, read as {encoding}")
