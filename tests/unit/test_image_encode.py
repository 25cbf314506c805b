"""Pixels to files."""

import io

import numpy as np
import pytest
from PIL import Image

from penstock.config import Encode
from penstock.errors import ItemError
from penstock.image.encode import encode
from penstock.records import Reason


@pytest.fixture
def image() -> Image.Image:
    ramp = np.arange(48, dtype=np.uint8)
    return Image.fromarray(
        np.stack([ramp[None, :] * 5 + ramp[:40, None], ramp[None, :] + 0 * ramp[:40, None]] * 2, -1)[..., :3]
    )


@pytest.mark.parametrize(("kind", "format_"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_what_is_encoded_can_be_read_back(image: Image.Image, kind: Encode, format_: str) -> None:
    """The bytes are a file of the asked kind and size, near the pixels that went in."""
    read = Image.open(io.BytesIO(encode(image, kind, 95)))
    assert (read.format, read.size, read.mode) == (format_, image.size, "RGB")
    assert np.abs(np.asarray(read, dtype=int) - np.asarray(image)).mean() < (0.001 if kind == "png" else 4)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_the_same_pixels_give_the_same_bytes(image: Image.Image, kind: Encode) -> None:
    """Nothing but the pixels decides the bytes: not the time, not the image's metadata object."""
    assert encode(image, kind, 90) == encode(image.copy(), kind, 90)


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_quality_has_its_price(image: Image.Image, kind: Encode) -> None:
    """A higher quality makes a larger file."""
    assert len(encode(image, kind, 95)) > len(encode(image, kind, 30))


@pytest.mark.parametrize(("kind", "side"), [("jpg", 65501), ("webp", 16384)])
def test_what_the_format_cannot_hold_is_refused(kind: Encode, side: int) -> None:
    """A side over the format's limit is `encode.failed`, with the limit in the detail; at the limit it works."""
    with pytest.raises(ItemError, match=f"{side}x1 as {kind}") as caught:
        encode(Image.new("RGB", (side, 1)), kind, 90)
    assert caught.value.reason is Reason.ENCODE_FAILED
    assert encode(Image.new("RGB", (side - 1, 1)), kind, 90)


def test_an_encoder_that_fails_is_a_failed_row() -> None:
    """What Pillow's encoder refuses (here: no pixels at all) is `encode.failed`, not another exception."""
    with pytest.raises(ItemError) as caught:
        encode(Image.new("RGB", (0, 0)), "jpg", 90)
    assert caught.value.reason is Reason.ENCODE_FAILED
