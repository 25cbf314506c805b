"""The work on a row of several parts."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow

from penstock.config import ImageConfig
from penstock.errors import ItemError
from penstock.image.parts_work import PartsWork
from penstock.parts import Column, Image, Images, Part, Text
from penstock.records import Failure, Fetched, Reason, Request, Result, Row, Sample

CONFIG = ImageConfig(size=16)
PARTS: dict[str, Part] = {
    "jpg": Image("u", size=8),
    "views": Images("v", encode="png", required=False),
    "abstract": Text("t", max_bytes=100, required=False),
    "caption": Column("c"),
    "tags": Column("d"),
}


def picture(width: int = 40, height: int = 30, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def worked(data: Mapping[str, bytes], fields: Mapping[str, Any] | None = None, **options: Any) -> Result:
    """The result for a row that asks for these things, and gets them."""
    parts = options.pop("parts", PARTS)
    optional = {name for name, part in parts.items() if not part.required}
    requests = tuple(Request(name, "u", required=name.partition(".")[0] not in optional) for name in data)
    fetched = tuple(Fetched(name, content, 200, 1, 0.1, 0.0, "text/plain") for name, content in data.items() if content)
    work = PartsWork(parts, options.pop("config", CONFIG), options.pop("as_array", False), **options)
    copy: PartsWork = pickle.loads(pickle.dumps(work))
    return copy(Row(3, requests, fields=fields or {}), fetched)


def parts_of(result: Result) -> dict[str, Any]:
    assert isinstance(result.value, Sample), result
    return dict(result.value.parts)


def failure_of(result: Result) -> Failure:
    assert isinstance(result.value, Failure), result
    return result.value


def size_of(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Pillow.open(io.BytesIO(data)) as image:
        return image.format, image.size


WHOLE = {
    "jpg": picture(),
    "views.0": picture(),
    "views.1": picture(20, 20, "blue"),
    "abstract": "Ü\r\n".encode(),
}


def test_names_of_files() -> None:
    """With endings, names become those of files: of images by their encoding, of texts and columns ``txt``."""
    parts = parts_of(worked(WHOLE, {"c": "a cat", "d": ["é", 1]}, endings=True))
    assert list(parts) == ["jpg", "views.0.png", "views.1.png", "abstract.txt", "caption.txt", "tags.txt"]
    assert size_of(parts["jpg"]) == ("JPEG", (8, 8))
    assert size_of(parts["views.1.png"]) == ("PNG", (16, 16))
    assert parts["abstract.txt"] == "Ü\r\n".encode()
    assert parts["caption.txt"] == b"a cat"
    assert parts["tags.txt"] == '["é", 1]'.encode()


def test_arrays() -> None:
    """As arrays, the images of a list are one array; without one shape for all, the row fails."""
    parts = parts_of(worked(WHOLE, as_array=True))
    assert {name: part.shape for name, part in parts.items() if not isinstance(part, bytes)} == {
        "jpg": (8, 8, 3),
        "views": (2, 16, 16, 3),
    }
    assert parts["views"].dtype == np.uint8
    assert np.array_equal(parts["views"][1, 0, 0], (0, 0, 255))
    with pytest.raises(ItemError, match="part views: the images of a row must have one shape"):
        worked(WHOLE, as_array=True, config=ImageConfig(size=16, resize="fit"))


def test_outcomes_tell_what_was_learnt() -> None:
    """Sizes and hashes of images, the encoding of texts; the row's own facts are those of its first request."""
    result = worked(WHOLE)
    assert isinstance(result.value, Sample)
    assert result.value.facts == result.parts["jpg"].facts
    facts = result.parts["views.1"].facts
    assert (facts.width, facts.original_width) == (16, 20)
    text = result.parts["abstract"]
    assert (text.encoding, text.encoding_from, text.size, text.reason) == ("utf-8", "utf-8", 4, None)
    assert text.facts.sha256 is not None


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("abstract", picture(), Reason.CONTENT_NOT_TEXT),
        ("abstract", b"x" * 101, Reason.BODY_TOO_LARGE),
        ("views.0", b"<html>", Reason.CONTENT_NOT_IMAGE),
    ],
)
def test_an_optional_part_fails_alone(name: str, data: bytes, reason: Reason) -> None:
    """Its reason is its own outcome, and the sample has the rest."""
    result = worked({**WHOLE, name: data})
    assert result.parts[name].reason is reason
    assert result.parts[name].size == len(data)
    assert set(parts_of(result)) == set(WHOLE) - {name}


def test_a_required_part_fails_the_row() -> None:
    """The row's reason is the part's, and the detail names it; the others have their outcomes all the same."""
    result = worked({**WHOLE, "jpg": b"<html>"})
    assert failure_of(result).reason is Reason.CONTENT_NOT_IMAGE
    assert failure_of(result).detail == "part jpg: html (the server said text/plain)"
    assert result.parts["abstract"].reason is None


def test_of_a_required_list_one_is_enough() -> None:
    """The row fails when the last of them does."""
    parts: dict[str, Part] = {"views": Images("v")}
    result = worked({"views.0": b"<html>", "views.1": picture()}, parts=parts)
    assert list(parts_of(result)) == ["views.1"]
    assert isinstance(result.value, Sample)
    assert result.value.facts.width is None, "the first request is the one that failed"
    assert failure_of(worked({"views.0": b"<html>", "views.1": b"x"}, parts=parts)).detail.startswith("part views.0: ")


def test_what_was_not_fetched_is_not_missed() -> None:
    """An optional part that did not come leaves no trace here: the flow has its outcome."""
    result = worked({**WHOLE, "abstract": b"", "views.0": b""})
    assert list(parts_of(result)) == ["jpg", "views.1"]
    assert set(result.parts) == {"jpg", "views.1"}


def test_nothing_usable_fails_the_row() -> None:
    """Though no part is required, a sample without a single one is none."""
    parts: dict[str, Part] = {"a": Text("t", required=False), "c": Column("c")}
    assert failure_of(worked({"a": b"\0"}, {"c": "x"}, parts=parts)).reason is Reason.CONTENT_NOT_TEXT


@pytest.mark.parametrize(
    ("value", "text"),
    [("é", "é"), (1.5, "1.5"), (True, "true"), ({"a": None}, '{"a": null}'), ("\ud800", "?"), ("", "")],
)
def test_values_of_columns(value: Any, text: str) -> None:
    """Text as it is, anything else as JSON."""
    assert parts_of(worked(WHOLE, {"c": value}))["caption"] == text.encode()


def negative(pixels: npt.NDArray[Any], _: Row) -> npt.NDArray[Any]:
    return 255 - pixels


def as_float(pixels: npt.NDArray[Any], _: Row) -> npt.NDArray[Any]:
    return pixels.astype(np.float32)


def by_colour(pixels: npt.NDArray[Any], _: Row) -> Any:
    return pixels if pixels[0, 0, 0] else pixels[:4]


def nothing(_: npt.NDArray[Any], __: Row) -> Any:
    return None


def test_transform_of_each_image() -> None:
    """A function of the pixels is called for each image; what is an image again is stored as one."""
    parts = parts_of(worked(WHOLE, transform_image=negative, endings=True))
    with Pillow.open(io.BytesIO(parts["views.1.png"])) as image:
        assert image.getpixel((0, 0)) == (255, 255, 0)
    floats = parts_of(worked(WHOLE, transform_image=as_float, endings=True))
    assert (floats["jpg"].dtype, floats["views.0"].shape) == (np.float32, (16, 16, 3))


def test_transform_that_returns_something_else() -> None:
    """Anything but an array is the part's failure; images of a list that differ in shape cannot be one array."""
    assert (
        failure_of(worked(WHOLE, transform_image=nothing)).detail
        == "part jpg: expected an array, as of each part, not None"
    )
    with pytest.raises(Exception, match=r"TRANSFORM_ERROR.*must have one shape"):
        worked(WHOLE, transform_image=by_colour, as_array=True)
