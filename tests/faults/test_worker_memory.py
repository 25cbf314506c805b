"""The bound on a worker's memory: every image within the limits is decoded below it, and none takes more."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from PIL import Image, features

from faults.collecting import collecting
from faults.works import bytes_of, row_of
from penstock.build import build_work, worker_memory
from penstock.config import RunConfig
from penstock.crew.processes import ProcessCrew
from penstock.image.work import NO_STEPS, TransformWork
from penstock.records import Failure, Reason, Result, Sample

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no bound")

KINDS: dict[str, dict[str, Any]] = {
    "jpeg": {"format": "JPEG"},
    "progressive jpeg": {"format": "JPEG", "progressive": True, "subsampling": 0},
    "png": {"format": "PNG", "compress_level": 1},
    "gif": {"format": "GIF"},
    "tiff": {"format": "TIFF", "compression": "tiff_lzw"},
    "webp": {"format": "WEBP", "method": 0},
    "lossless webp": {"format": "WEBP", "method": 0, "lossless": True, "quality": 0},
    "avif": {"format": "AVIF", "speed": 10, "quality": 30},
}
"""How an image of each kind is saved."""

FEATURE = {"webp": "webp", "lossless webp": "webp", "avif": "avif"}
"""What Pillow can be built without."""


def picture(kind: str, side: int) -> bytes:
    """A square of one colour: what decoding it takes depends on its size alone."""
    if kind in FEATURE and not features.check(FEATURE[kind]):
        pytest.skip(f"Pillow was built without {FEATURE[kind]}")
    mode, colour = ("RGB", (200, 100, 50)) if "jpeg" in kind or kind == "gif" else ("RGBA", (200, 100, 50, 128))
    file = io.BytesIO()
    Image.new(mode, (side, side), colour).save(file, **KINDS[kind])
    return file.getvalue()


def decoded(data: bytes, memory: int | None, **options: Any) -> Result:
    """What becomes of an image in a worker of its own."""
    config = RunConfig(worker_memory=memory, **options)
    work = build_work(config, NO_STEPS, as_array=False)
    with collecting(ProcessCrew(work, 1, 100.0, memory=worker_memory(config, work))) as collector:
        return collector.work_off({0: (row_of(0), bytes_of(data))})[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_images_are_decoded_below_the_default_bound(kind: str) -> None:
    """64 million pixels at full size, as --max-pixels allows."""
    result = decoded(picture(kind, 8000), None, exact=True)
    assert isinstance(result.value, Sample), result.value


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_needs_more_than_the_bound_fails(kind: str) -> None:
    """Each decoder has its own words for it, and all of them mean `decode.memory`."""
    result = decoded(picture(kind, 3000), 2**24, exact=True)
    assert isinstance(result.value, Failure)
    assert result.value.reason is Reason.DECODE_MEMORY, result.value


def test_a_transform_is_bounded_only_if_asked() -> None:
    """What it needs is its own."""
    work = TransformWork(len)  # type: ignore[arg-type]  # it is never called
    assert worker_memory(RunConfig(), work) is None
    assert worker_memory(RunConfig(worker_memory=2**24), work) == 2**24
