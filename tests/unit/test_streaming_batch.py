"""What a training loop has in its hands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.streaming.batch import Batch


def batch_of(**parts: Any) -> Batch:
    count = len(next(iter(parts.values())))
    return Batch([f"{index:09d}" for index in range(count)], parts, {}, None, (), 0)


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), np.uint8)


def test_images_are_the_first_part_that_is_an_array() -> None:
    """Whatever it is called, and wherever bytes stand."""
    labels = np.zeros(4)
    assert batch_of(text=[b""] * 4, picture=PIXELS, label=labels).images is PIXELS


def test_rows_without_arrays_have_no_images() -> None:
    """The message names what they have."""
    with pytest.raises(AttributeError, match="their parts are text, name"):
        _ = batch_of(text=[b""], name=[b""]).images


def test_without_numbers_images_are_scaled_to_one() -> None:
    """Exactly 0 and exactly 1 at the ends, in float32."""
    floats = batch_of(image=PIXELS).as_float()
    assert floats.dtype == np.float32
    assert np.array_equal(floats, PIXELS.astype(np.float32) / np.float32(255))
    ends = np.array([0, 255], np.uint8)
    assert batch_of(image=ends).as_float().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (0.5, 0.25), (0.5, None), (None, (0.2, 0.3, 0.4)), (0.0, 1.0)],
)
def test_images_are_normalised_by_channel(mean: Any, std: Any) -> None:
    """As ``(x / 255 - mean) / std``; what is not given changes nothing."""
    floats = batch_of(image=PIXELS).as_float(mean=mean, std=std)
    expected = (PIXELS / 255.0 - np.array(mean or 0.0)) / np.array(std or 1.0)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, expected, atol=2e-6)


def test_floats_have_memory_of_their_own() -> None:
    """They can be changed, and outlive the batch."""
    batch = batch_of(image=PIXELS)
    for floats in (batch.as_float(), batch.as_float(mean=0.5)):
        assert not np.shares_memory(floats, PIXELS)
        floats.fill(1)


def test_only_pixels_have_that_scale() -> None:
    """What a transform has made does not."""
    with pytest.raises(TypeError, match="these are float64"):
        batch_of(image=np.zeros((2, 3))).as_float()


def test_a_batch_tells_what_it_is() -> None:
    """Its length is that of its rows, and its text has shapes and no pixels."""
    batch = batch_of(image=PIXELS, text=[b""] * 4)
    assert len(batch) == 4
    assert repr(batch) == "<Batch of 4 in epoch 0: image: uint8 (4, 5, 5, 3), text: list>"
