"""The geometry of the result, and its pixels, against the published table and against Pillow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from penstock.config import Resize
from penstock.image.resize import SIDEWAYS, apply, plan

BICUBIC = Image.Resampling.BICUBIC
MODES: tuple[Resize, ...] = ("crop", "fit", "stretch", "pad", "none")
sides = st.integers(1, 70_000)
sizes = st.integers(1, 2048)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("source", "largest_256", "largest_512"),
    [
        ((123, 456), (69, 256), (138, 512)),
        ((208, 495), (108, 256), (215, 512)),
        ((321, 421), (195, 256), (390, 512)),
        ((389, 535), (186, 256), (372, 512)),
        ((416, 264), (256, 162), (512, 325)),
        ((456, 123), (256, 69), (512, 138)),
        ((524, 316), (256, 154), (512, 309)),
    ],
)
def test_sizes_are_those_of_img2dataset(
    source: tuple[int, int], largest_256: tuple[int, int], largest_512: tuple[int, int]
) -> None:
    """fit is keep_ratio_largest, pad is border, crop is center_crop, to the pixel."""
    for size, largest in ((256, largest_256), (512, largest_512)):
        assert plan(*source, size, "fit").canvas == largest
        assert plan(*source, size, "pad").scaled == largest
        assert plan(*source, size, "pad").canvas == plan(*source, size, "crop").canvas == (size, size)


@given(sides, sides, sizes, st.sampled_from(MODES))
def test_every_plan_is_sound(width: int, height: int, size: int, mode: Resize) -> None:
    """The box lies in the source, the resized part on the canvas, and nothing has a side of 0."""
    geometry = plan(width, height, size, mode)
    left, top, right, bottom = geometry.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert min(geometry.scaled) >= 1
    assert all(o >= 0 and o + s <= c for o, s, c in zip(geometry.offset, geometry.scaled, geometry.canvas, strict=True))


@given(sides, sides, sizes)
def test_fit_keeps_the_aspect_within_a_pixel(width: int, height: int, size: int) -> None:
    """The longest side becomes the size; the other one is off by half a pixel at most, unless that would be 0."""
    scaled = plan(width, height, size, "fit").scaled
    assert max(scaled) == size
    factor = size / max(width, height)
    assert all(abs(new - max(1, old * factor)) <= 0.5 for new, old in zip(scaled, (width, height), strict=True))


@given(sides, sides, sizes)
def test_pad_is_centred(width: int, height: int, size: int) -> None:
    """White borders on both sides differ by one pixel at most, and only one direction has them."""
    geometry = plan(width, height, size, "pad")
    for offset, scaled in zip(geometry.offset, geometry.scaled, strict=True):
        assert 0 <= (size - scaled - offset) - offset <= 1
    assert min(geometry.offset) == 0


@given(sides, sides, sizes)
def test_crop_is_a_centred_square(width: int, height: int, size: int) -> None:
    """The box is the largest square, in the middle to the half pixel."""
    left, top, right, bottom = plan(width, height, size, "crop").box
    assert right - left == bottom - top == min(width, height)
    assert (left + right, top + bottom) == (width, height)


@given(sides, sides, sizes, st.sampled_from(MODES))
def test_a_turned_image_has_a_turned_plan(width: int, height: int, size: int, mode: Resize) -> None:
    """Swapping the sides of the source swaps those of the plan: what the late transposition relies on."""
    assert plan(width, height, size, mode).sideways() == plan(height, width, size, mode)


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60))
def test_exact_crop_is_pillows_fit(width: int, height: int, size: int) -> None:
    """Bit for bit `ImageOps.fit`, for any size, shrinking and enlarging."""
    image = noise(width, height)
    expected = ImageOps.fit(image, (size, size), BICUBIC)
    assert apply(image, plan(width, height, size, "crop"), exact=True).tobytes() == expected.tobytes()


def test_exact_modes_are_pillows_resize() -> None:
    """Bit for bit `Image.resize` for stretch, fit and none, and the same pasted on white for pad."""
    image = noise(90, 61)
    results = {mode: apply(image, plan(90, 61, 32, mode), exact=True) for mode in MODES}
    assert results["stretch"].tobytes() == image.resize((32, 32), BICUBIC).tobytes()
    assert results["fit"].tobytes() == image.resize((32, 22), BICUBIC).tobytes()
    assert results["none"].tobytes() == image.tobytes()
    padded = Image.new("RGB", (32, 32), "white")
    padded.paste(image.resize((32, 22), BICUBIC), (0, 5))
    assert results["pad"].tobytes() == padded.tobytes()


def test_grey_becomes_rgb_with_the_same_pixels() -> None:
    """Resizing grey and converting last gives what converting first gives."""
    grey = noise(50, 40, "L")
    geometry = plan(50, 40, 16, "crop")
    assert apply(grey, geometry, exact=True).tobytes() == apply(grey.convert("RGB"), geometry, exact=True).tobytes()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transpose", list(Image.Transpose))
def test_transposing_late_is_transposing(mode: Resize, transpose: Image.Transpose) -> None:
    """Resize, then transpose, gives the size and (to a rounding) the pixels of the opposite order."""
    image = noise(71, 46)
    upright = image.transpose(transpose)
    geometry = plan(*upright.size, 24, mode)
    late = np.asarray(apply(image, geometry, exact=False, transpose=transpose), dtype=int)
    early = np.asarray(apply(upright, geometry, exact=False), dtype=int)
    assert (upright.size == image.size) == (transpose not in SIDEWAYS)
    assert late.shape == early.shape
    assert np.abs(late - early).mean() < 3


def test_a_reduced_geometry_covers_the_same_part() -> None:
    """For an image decoded at a quarter of its size the box shrinks with it, fractions and all."""
    geometry = plan(1001, 770, 128, "crop")
    assert geometry.reduced(4).box == tuple(edge / 4 for edge in geometry.box)
    assert geometry.reduced(1) == geometry
    assert geometry.shrink == 770 / 128


@pytest.mark.parametrize("mode", ["crop", "fit", "stretch", "pad"])
@pytest.mark.parametrize("source", [(1, 65500), (65500, 1)])
def test_threads_of_pixels_are_resized(mode: Resize, source: tuple[int, int]) -> None:
    """Images of 1 × 65500 give a result of the planned size, exact or not."""
    image = noise(*source)
    geometry = plan(*source, 16, mode)
    for exact in (True, False):
        assert apply(image, geometry, exact=exact).size == geometry.canvas
