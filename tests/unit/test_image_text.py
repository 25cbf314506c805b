"""In which encoding a text is, and who says so."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ItemError
from penstock.image.text import SAMPLE, decode_text
from penstock.records import Reason
from penstock.testing.images import make_images

GERMAN = "Schöne Grüße aus den Hügeln über Köln, für alle.\r\nZweite Zeile.\n"
CHINESE = "一只黑猫坐在窗台上，望着外面的花园。天气很好，阳光照在它的身上。"
JAPANESE = "黒い猫が窓辺に座って、庭を眺めています。とてもいい天気です。"
RUSSIAN = "Чёрная кошка сидит на подоконнике и смотрит в сад."
KOREAN = "검은 고양이가 창가에 앉아 정원을 바라보고 있습니다."
TAIWANESE = "一隻黑貓坐在窗台上，望著外面的花園。天氣很好，陽光照在牠的身上。"

# what was downloaded, charset given, Content-Type, text, encoding, who says so
TABLE = [
    ("utf-8", GERMAN.encode(), None, "text/plain", GERMAN, "utf-8", "utf-8"),
    ("ascii", b"a cat", None, "", "a cat", "utf-8", "utf-8"),
    ("empty", b"", None, "", "", "utf-8", "utf-8"),
    ("utf-8 with a mark", codecs.BOM_UTF8 + GERMAN.encode(), None, "", GERMAN, "utf-8", "bom"),
    ("utf-16 with a mark", GERMAN.encode("utf-16"), None, "", GERMAN, "utf-16-le", "bom"),
    ("utf-16-be", codecs.BOM_UTF16_BE + CHINESE.encode("utf-16-be"), None, "", CHINESE, "utf-16-be", "bom"),
    ("utf-32", RUSSIAN.encode("utf-32"), None, "", RUSSIAN, "utf-32-le", "bom"),
    ("mark against declaration", GERMAN.encode("utf-16"), None, "x; charset=latin-1", GERMAN, "utf-16-le", "bom"),
    ("declared", GERMAN.encode("latin-1"), None, "text/plain; charset=ISO-8859-1", GERMAN, "cp1252", "declared"),
    ("quotes", b"\x93cat\x94", None, 'text/plain; Charset="latin1"', "“cat”", "cp1252", "declared"),
    ("gb2312", CHINESE.encode("gb18030"), None, "text/plain;charset=GB2312", CHINESE, "gb18030", "declared"),
    ("shift_jis", JAPANESE.encode("cp932"), None, "text/plain; charset=Shift_JIS", JAPANESE, "cp932", "declared"),
    ("koi8-r", RUSSIAN.encode("koi8-r"), None, "text/plain; charset=koi8-r", RUSSIAN, "koi8-r", "declared"),
    ("utf-16 declared", CHINESE.encode("utf-16-le"), None, "x; charset=utf-16le", CHINESE, "utf-16-le", "declared"),
    ("wrongly declared", GERMAN.encode(), None, "text/plain; charset=us-ascii-x", GERMAN, "utf-8", "utf-8"),
    ("declared, not so", JAPANESE.encode("cp932"), None, "x; charset=utf-8", JAPANESE, "cp932", "detected"),
    ("no codec of text", GERMAN.encode(), None, "x; charset=base64", GERMAN, "utf-8", "utf-8"),
    ("escapes of Python", rb"C:\new", None, "x; charset=unicode_escape", r"C:\new", "utf-8", "utf-8"),
    ("more of them", rb"\u0041", None, "x; charset=raw-unicode-escape", r"\u0041", "utf-8", "utf-8"),
    ("slow codec", b"cat-", None, "x; charset=punycode", "cat-", "utf-8", "utf-8"),
    ("detected gb18030", CHINESE.encode("gb18030"), None, "text/plain", CHINESE, "gb18030", "detected"),
    ("detected shift_jis", JAPANESE.encode("cp932"), None, "", JAPANESE, "cp932", "detected"),
    ("detected cp1251", RUSSIAN.encode("cp1251"), None, "", RUSSIAN, "cp1251", "detected"),
    ("detected euc-jp", JAPANESE.encode("euc_jp"), None, "", JAPANESE, "euc_jp", "detected"),
    ("detected euc-kr", KOREAN.encode("euc_kr"), None, "", KOREAN, "cp949", "detected"),
    ("detected big5", TAIWANESE.encode("big5"), None, "", TAIWANESE, "big5hkscs", "detected"),
    ("detected latin-1", "naïve café".encode("latin-1"), None, "", "naïve café", "cp1252", "detected"),
    ("given", RUSSIAN.encode("cp1251"), "cp1251", "x; charset=utf-8", RUSSIAN, "cp1251", "given"),
    ("given with a mark", CHINESE.encode("utf-8-sig"), "utf-8", "", CHINESE, "utf-8", "given"),
]


@pytest.mark.parametrize(
    ("data", "charset", "content_type", "text", "encoding", "origin"),
    [row[1:] for row in TABLE],
    ids=[r[0] for r in TABLE],
)
def test_texts(data: bytes, charset: str | None, content_type: str, text: str, encoding: str, origin: str) -> None:
    """Given, mark, declaration, UTF-8, detection: in this order, and it is told which of them it was."""
    assert decode_text(data, charset=charset, content_type=content_type) == (text, encoding, origin)


PICTURE = make_images(1, mean_bytes=4_000)[0].data

NO_TEXTS = [
    (PICTURE, None, ""),
    (PICTURE, None, "text/plain; charset=latin-1"),
    (PICTURE, "latin-1", ""),
    (b"a\0b", None, ""),
    ("no mark".encode("utf-16-le"), None, ""),
    (bytes(range(1, 32)) * 4, None, ""),
    (b"\x1f\x8b\x08" + bytes([3, 200, 17, 1]) * 50, "cp437", ""),
]


@pytest.mark.parametrize(("data", "charset", "content_type"), NO_TEXTS)
def test_what_is_no_text(data: bytes, charset: str | None, content_type: str) -> None:
    """Bytes that some encoding would take are refused where what comes out is no text."""
    with pytest.raises(ItemError) as caught:
        decode_text(data, charset=charset, content_type=content_type)
    assert caught.value.reason is Reason.CONTENT_NOT_TEXT


def test_given_is_an_order() -> None:
    """With an encoding given no other is tried, and the message has what the server said."""
    with pytest.raises(ItemError) as caught:
        decode_text(GERMAN.encode("latin-1"), charset="utf-8", content_type="text/plain; charset=latin-1")
    assert caught.value.detail == "not utf-8, which is given (the server said text/plain; charset=latin-1)"


def test_long_texts_are_detected_by_their_beginning() -> None:
    """The guess is made from a sample, and holds for the whole; a character cut by the sample's end is no trouble."""
    text = f"{CHINESE}\n" * (2 * SAMPLE // len(CHINESE))
    assert decode_text(text.encode("gb18030")) == (text, "gb18030", "detected")


@given(st.binary(max_size=300), st.sampled_from([None, "utf-8", "latin-1", "gb18030"]), st.text(max_size=40))
def test_any_bytes(data: bytes, charset: str | None, said: str) -> None:
    """Whatever comes is a text without NUL, or the one failure."""
    outcome: str | Reason
    try:
        outcome = decode_text(data, charset=charset, content_type=f"text/plain; charset={said}").text
    except ItemError as error:
        outcome = error.reason
    assert outcome is Reason.CONTENT_NOT_TEXT or "\0" not in outcome
