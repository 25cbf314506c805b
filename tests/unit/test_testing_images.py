"""Generated pictures are what they say, in the mix they promise, and the same for every run."""

import collections
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from penstock.testing import images
from penstock.testing.images import Picture, make_images, truncated_jpeg

SMALL = 5_000
MODES = {
    "jpeg": "RGB",
    "jpeg-progressive": "RGB",
    "jpeg-grey": "L",
    "jpeg-cmyk": "CMYK",
    "png-rgb": "RGB",
    "png-grey16": "I;16",
    "png-palette": "P",
    "webp": "RGB",
    "gif": "P",
}


@pytest.fixture(scope="module")
def hundred() -> list[Picture]:
    """One picture for each per cent of the mix."""
    return make_images(100, mean_bytes=SMALL)


def upright(index: int) -> Image.Image:
    """What the picture at `index` showed before it was encoded."""
    kind = images.KINDS[index * images.STRIDE % 100]
    stem = kind if kind in images.BYTES_PER_PIXEL else kind.partition("-")[0]
    pixels = (SMALL - images.HEADER) / images.BYTES_PER_PIXEL[stem]
    return images._render(np.random.default_rng([0, index]), images._fields(0), pixels).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean distance of two pictures of one size, in grey levels; transparency does not count."""
    assert one.size == other.size
    return float(np.abs(np.asarray(one.convert("RGBA").convert("RGB"), np.int16) - np.asarray(other, np.int16)).mean())


def test_the_mix(hundred: list[Picture]) -> None:
    """86 % JPEG, 7 % PNG, 6 % WebP and 1 % GIF, each of the format that it claims, in every variety."""
    assert collections.Counter(picture.format for picture in hundred) == {"jpeg": 86, "png": 7, "webp": 6, "gif": 1}
    assert {picture.kind for picture in hundred} == set(images.KINDS)
    for picture in hundred:
        with Image.open(io.BytesIO(picture.data)) as image:
            image.load()
            assert image.format is not None
            assert image.format.lower() == picture.format
            assert image.mode == MODES.get(picture.kind, "RGB")
            assert bool(image.info.get("progressive")) == (picture.kind == "jpeg-progressive")
            assert ("transparency" in image.info) == (picture.kind == "png-palette")


def test_pictures_show_what_was_drawn(hundred: list[Picture]) -> None:
    """Decoded and turned by its EXIF orientation, every colour picture is the upright one, CMYK included."""
    tags = set()
    for index, picture in enumerate(hundred):
        if picture.kind in ("jpeg-grey", "png-grey16"):
            continue
        with Image.open(io.BytesIO(picture.data)) as image:
            tags.add(image.getexif().get(images.ORIENTATION_TAG))
            shown = ImageOps.exif_transpose(image)
        # Quantised colours are off by a few levels; a picture that is turned the wrong way by twenty and more.
        assert difference(shown, upright(index)) < 12, picture.kind
    assert tags == {None, *range(1, 9)}


def test_names_and_contents_are_distinct() -> None:
    """Two hundred pictures are two hundred different ones."""
    pictures = make_images(200, mean_bytes=2_000)
    assert len({picture.data for picture in pictures}) == 200
    assert len({picture.name for picture in pictures}) == 200


def test_a_picture_depends_on_seed_and_position_only(hundred: list[Picture]) -> None:
    """More pictures do not change the first ones, another seed changes all."""
    images._fields.cache_clear()
    assert make_images(6, mean_bytes=SMALL) == hundred[:6]
    other = make_images(6, seed=1, mean_bytes=SMALL)
    assert not {picture.data for picture in other} & {picture.data for picture in hundred}


@pytest.mark.slow
def test_sizes_are_those_of_photographs() -> None:
    """The mix comes to the wanted average, and its JPEGs to the bits per pixel of photographs."""
    pictures = make_images(100)
    assert np.mean([len(picture.data) for picture in pictures]) == pytest.approx(150_000, rel=0.15)
    bits = []
    for picture in pictures:
        if picture.kind == "jpeg":
            with Image.open(io.BytesIO(picture.data)) as image:
                bits.append(8 * len(picture.data) / (image.width * image.height))
    assert 1.2 < np.mean(bits) < 2.4


def test_a_truncated_jpeg_breaks_off() -> None:
    """It opens like a picture and ends before its pixels do."""
    with Image.open(io.BytesIO(truncated_jpeg(3))) as image, pytest.raises(OSError, match="truncated"):
        image.load()


@pytest.mark.parametrize("mean_bytes", [1_999, 250_001])
def test_an_impossible_size_is_refused(mean_bytes: int) -> None:
    """The message has the value and what is allowed."""
    with pytest.raises(ValueError, match=rf"mean_bytes {mean_bytes}: expected 2000 to 250000"):
        make_images(1, mean_bytes=mean_bytes)
