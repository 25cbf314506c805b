"""What a run has written is read back, without network, as a stream reads it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

import penstock
from penstock.config import ImageConfig
from penstock.crew.threads import ThreadCrew
from penstock.fetch.budget import ByteBudget
from penstock.flow import Lane
from penstock.reading import ShardFetcher, ShardSource, stored_work
from penstock.records import Settled
from penstock.testing.server import ImageServer

RunFunction = Callable[..., penstock.Report]

WRITTEN = [index for index in range(40) if index not in (7, 20)]


def read_back(source: ShardSource, config: ImageConfig) -> dict[int, npt.NDArray[np.uint8]]:
    """The images by row, through a lane of threads."""
    crew = ThreadCrew(stored_work(source, config), width=2)
    fetcher = ShardFetcher(source.folder)
    lane = Lane(fetcher, crew, lookahead=4 * fetcher.width, budget=ByteBudget(2**20), result_bytes=2**20)
    with lane:
        return {settled.outcome.row.index: image_of(settled) for settled in lane.settle(source.rows())}


def image_of(settled: Settled) -> npt.NDArray[np.uint8]:
    """The one part of a written row."""
    assert settled.sample is not None, settled.outcome
    image = settled.sample.parts["image"]
    assert isinstance(image, np.ndarray)
    return image


def table(urls: list[str]) -> pa.Table:
    """The list with a caption and a column to keep."""
    numbers = list(range(len(urls)))
    return pa.table({"url": urls, "text": [f"picture {number}" for number in numbers], "number": numbers})


@pytest.mark.parametrize("form", ["webdataset", "parquet", "files", "arrays"])
def test_written_images_come_back(run: RunFunction, urls: list[str], tmp_path: Path, form: str) -> None:
    """At the size that was stored every format gives the stored pixels, with captions and kept columns."""
    run(table(urls), format=form, caption_column="text", keep_columns=("number",))
    source = ShardSource(tmp_path / "out")
    rows = list(source.rows())
    assert [row.index for row in rows] == WRITTEN
    assert [(row.caption, row.fields) for row in rows] == [(f"picture {i}", {"number": i}) for i in WRITTEN]
    assert {request.part for row in rows for request in row.requests} == {"image"}
    images = read_back(source, ImageConfig(size=32))
    assert sorted(images) == WRITTEN
    if form == "arrays":
        np.testing.assert_array_equal([images[index] for index in WRITTEN], penstock.load(tmp_path / "out")[:])
    elif form == "files":
        for index in WRITTEN:
            (path,) = (tmp_path / "out").glob(f"*/{index:09d}.jpg")
            np.testing.assert_array_equal(images[index], np.asarray(Image.open(io.BytesIO(path.read_bytes()))))


@pytest.mark.parametrize("resize", ["crop", "fit", "stretch", "pad", "none"])
@pytest.mark.parametrize("encode", ["jpg", "webp"])
def test_nothing_is_resampled_at_the_stored_size(
    run: RunFunction, urls: list[str], tmp_path: Path, resize: str, encode: str
) -> None:
    """With the size and the mode of the run, reading is decoding and nothing else."""
    run(urls[:4], format="files", resize=resize, encode=encode)
    images = read_back(ShardSource(tmp_path / "out"), ImageConfig(size=32, resize=resize))  # type: ignore[arg-type]  # one of the modes
    assert sorted(images) == [0, 1, 2, 3]
    for index, image in images.items():
        stored = Image.open(tmp_path / f"out/00000/{index:09d}.{encode}").convert("RGB")
        np.testing.assert_array_equal(image, np.asarray(stored), strict=True)


@pytest.mark.slow
def test_all_formats_give_the_same(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A tar, a table and a folder of files hold the same images, and are read in the same order."""
    read = []
    for form in ("webdataset", "parquet", "files"):
        run(urls, form, format=form)
        source = ShardSource(tmp_path / form)
        images = read_back(source, ImageConfig(size=32))
        read.append(([row.index for row in source.rows()], [images[index] for index in WRITTEN]))
    for order, pictures in read[1:]:
        assert order == read[0][0]
        np.testing.assert_array_equal(pictures, read[0][1])


def test_the_order_is_that_of_load(run: RunFunction, image_server: ImageServer, tmp_path: Path) -> None:
    """Rows that were retried lie in shards of their own at the end, for this source as for `penstock.load`."""
    listed = image_server.image_urls(20)
    listed[3] = f"{image_server.url}/flaky/1/{image_server.pictures[0]}?id={tmp_path.name}"
    run(listed, format="arrays", shard_size=8, retries=0)
    report = run(listed, format="arrays", shard_size=8, retries=0, retry_failed=True)
    assert report.written == 20
    source, images = ShardSource(tmp_path / "out"), penstock.load(tmp_path / "out")
    assert [row.key for row in source.rows()] == images.keys.tolist()
    assert next(source.rows(19)).index == 3
    read = read_back(source, ImageConfig(size=32))
    np.testing.assert_array_equal([read[int(key)] for key in images.keys], images[:])
