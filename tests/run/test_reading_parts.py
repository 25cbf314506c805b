"""A stream over what a run has written gives what a stream over the list would have given, whatever rows are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import penstock
from penstock.parts import Part
from penstock.streaming.batch import Batch
from penstock.streaming.stream import Stream
from penstock.testing.server import ImageServer
from run.transforms import (
    channels_first,
    half_or_float,
    image_and_depth,
    invert_in_place,
    length_head_and_name,
    only_bytes,
    turned_with_note,
)

RunFunction = Callable[..., penstock.Report]
Rows = dict[str, dict[str, Any]]

FILES = ["webdataset", pytest.param("files", marks=pytest.mark.slow), pytest.param("parquet", marks=pytest.mark.slow)]
ARRAYS = pytest.param("arrays", marks=pytest.mark.slow)

ROWS = 20
ODD = "\ufeffnot \0 every\x01\x02\x03 text"
"""A value that would not pass for a downloaded text."""

PARTS: dict[str, Part] = {
    "caption": penstock.Column("caption"),
    "abstract": penstock.Text("text_url", charset="latin-1"),
    "views": penstock.Images("image_urls", at_most=3, required=False),
    "photo": penstock.Image("image_url"),
    "small": penstock.Image("second_url", size=8, required=False),
    "free": penstock.Image("image_url", size=20, resize="fit", required=False),
    "tags": penstock.Column("tags"),
}


@pytest.fixture
def run(run: RunFunction) -> RunFunction:
    """With threads, which start in no time."""
    return partial(run, strategy="threads")


@pytest.fixture
def items(image_server: ImageServer) -> list[dict[str, Any]]:
    """Rows of which one fails, and some lack something that is optional."""
    urls = image_server.image_urls(ROWS)
    items: list[dict[str, Any]] = [
        {
            "image_url": url,
            "second_url": url,
            "text_url": f"{image_server.url}/charset/latin-1/caf%C3%A9%20{index}",
            "image_urls": urls[index : index + index % 4 + 1],
            "caption": f"number {index}",
            "tags": ["é", str(index)],
            "n": index,
        }
        for index, url in enumerate(urls)
    ]
    items[2]["image_url"] = f"{image_server.url}/status/404"
    items[4]["second_url"] = f"{image_server.url}/html"
    items[5]["image_urls"] = [f"{image_server.url}/html", urls[0]]
    items[6]["image_urls"] = []
    items[7]["caption"] = None
    items[8]["caption"] = ODD
    return items


def stream(source: Any, **options: Any) -> Stream:
    """`penstock.stream`, quick, and with the network that only lists need."""
    defaults = {"batch_size": 4, "workers": 1, "strategy": "threads", "allow_network": ("127.0.0.0/8",)}
    return penstock.stream(source, **{**defaults, **options})


def rows_of(batches: Iterable[Batch]) -> Rows:
    """What each row has, by key."""
    rows: Rows = {}
    for batch in batches:
        for index, key in enumerate(batch.keys):
            assert key not in rows
            parts = {f"part {name}": values[index] for name, values in batch.parts.items()}
            rows[key] = parts | {f"field {name}": values[index] for name, values in batch.fields.items()}
    return rows


def read(source: Any, **options: Any) -> Rows:
    with stream(source, **options) as batches:
        return rows_of(batches)


def assert_same(here: Rows, there: Rows) -> None:
    assert here.keys() == there.keys()
    for key, row in here.items():
        assert list(row) == list(there[key])
        for name, value in row.items():
            assert type(value) is type(there[key][name]), (key, name)
            np.testing.assert_array_equal(value, there[key][name], err_msg=f"{key} {name}", strict=True)


def key_of(number: int) -> str:
    return f"{number:09d}"


# Rows of several parts.


@pytest.mark.parametrize("form", FILES)
def test_parts_are_those_of_the_list(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path, form: str) -> None:
    """Images, lists of them, texts, columns, and what some rows lack; and the kept columns, without those of parts."""
    report = run(items, parts=PARTS, format=form, encode="png", keep_columns=("n",), shard_size=8)
    assert report.written == ROWS - 1
    there = read(items, parts=PARTS, size=32, keep_columns=("n",))
    here = read(tmp_path / "out")
    assert_same(here, there)
    assert here[key_of(0)].keys() == {*(f"part {name}" for name in PARTS), "field n"}
    assert (here[key_of(8)]["part caption"], here[key_of(7)]["part caption"]) == (ODD, None)
    assert here[key_of(3)]["part abstract"] == "café 3"
    assert here[key_of(3)]["part views"].shape == (3, 32, 32, 3)
    assert here[key_of(4)]["part small"] is None


def test_a_file_is_decoded_as_it_is(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path) -> None:
    """Nothing is resampled: of a JPEG the pixels are those that any decoder finds there."""
    run(items, parts=PARTS, format="files")
    for key, row in read(tmp_path / "out").items():
        stored = Image.open(tmp_path / "out" / f"{int(key) // 16:05d}" / f"{key}.photo.jpg")
        np.testing.assert_array_equal(row["part photo"], np.asarray(stored), strict=True)


def test_arrays_of_several_parts(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path) -> None:
    """One array a part; a column comes from the table, and is no field unless it was kept."""
    parts = {
        "small": penstock.Image("image_url", size=8),
        "image": penstock.Image("image_url"),
        "caption": PARTS["caption"],
    }
    run(items, parts=parts, format="arrays")
    here = read(tmp_path / "out")
    assert_same(here, read(items, parts=parts, size=32))
    np.testing.assert_array_equal([here[key]["part image"] for key in sorted(here)], penstock.load(tmp_path / "out")[:])
    assert read(tmp_path / "out", keep_columns=("caption",))[key_of(0)]["field caption"] == "number 0"


@pytest.mark.parametrize("form", FILES)
def test_rows_of_texts_alone(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path, form: str) -> None:
    """Rows that have no image, or not any more, have their texts."""
    items[3]["image_url"] = items[2]["image_url"]
    parts = {"txt": PARTS["abstract"], "jpg": penstock.Image("image_url", required=False)}
    run(items, parts=parts, format=form)
    rows = read(tmp_path / "out")
    assert len(rows) == ROWS
    assert (rows[key_of(2)]["part jpg"], rows[key_of(2)]["part txt"]) == (None, "café 2")
    assert rows[key_of(1)]["part jpg"].shape == (32, 32, 3)
    run(items, "texts", parts={"txt": PARTS["abstract"]}, format=form)
    assert read(tmp_path / "texts")[key_of(5)] == {"part txt": "café 5"}


@pytest.mark.slow
def test_sizes_that_are_asked_for(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path) -> None:
    """They are for the parts that had none of their own; ragged images get one in any case."""
    ragged = {"ragged": penstock.Image("image_url", resize="fit"), "list": penstock.Images("image_urls", resize="none")}
    run(items, parts={**PARTS, **ragged}, encode="png")
    whole = read(tmp_path / "out")[key_of(3)]
    assert max(whole["part free"].shape) == 20 > whole["part free"].shape[0]
    assert whole["part ragged"].shape == (32, 32, 3)
    row = read(tmp_path / "out", size=16, resize="stretch")[key_of(3)]
    assert {name.removeprefix("part "): value.shape for name, value in row.items() if hasattr(value, "shape")} == {
        "views": (3, 16, 16, 3),
        "photo": (16, 16, 3),
        "small": (8, 8, 3),
        "free": whole["part free"].shape,
        "ragged": (16, 16, 3),
        "list": (4, 16, 16, 3),
    }
    with pytest.raises(penstock.ConfigError, match="part list: resize='none'"):
        stream(items, parts={"list": ragged["list"]})


@pytest.mark.parametrize("form", [*FILES, ARRAYS])
def test_parts_that_a_function_has_shaped(
    run: RunFunction, items: list[dict[str, Any]], tmp_path: Path, form: str
) -> None:
    """They come as they are, arrays and images; a size that is asked for is for the images that had none of their own."""
    parts: dict[str, Part] = {"photo": PARTS["photo"], "small": penstock.Image("image_url", size=8)}
    if form != "arrays":
        parts["views"] = PARTS["views"]
    run(items, parts=parts, format=form, encode="png", transform_image=half_or_float)
    there = read(items, parts=parts, size=32, transform_image=half_or_float)
    assert_same(read(tmp_path / "out"), there)
    smaller = read(tmp_path / "out", size=12)[key_of(0)]
    assert (smaller["part photo"].shape, smaller["part small"].shape) == ((12, 12, 3), (3, 8, 8))


# What a transform has made.


@pytest.mark.parametrize("form", FILES)
def test_parts_of_a_transform(run: RunFunction, urls: list[str], tmp_path: Path, form: str) -> None:
    """Arrays as arrays, bytes as bytes, under the names that it gave."""
    run(urls, format=form, transform=length_head_and_name)
    here = read(tmp_path / "out")
    there = read(urls, transform=length_head_and_name)
    assert_same(here, {key: {name: there[key][name] for name in row} for key, row in here.items()})
    assert here[key_of(0)].keys() == there[key_of(0)].keys()


@pytest.mark.parametrize("form", FILES)
def test_parts_of_a_transform_of_images(run: RunFunction, urls: list[str], tmp_path: Path, form: str) -> None:
    """The image is decoded, and keeps its size unless one is asked for; it is `Batch.images`."""
    run(urls, format=form, encode="png", transform_image=turned_with_note)
    with stream(tmp_path / "out", ordered=True) as batches:
        received = list(batches)
    assert received[0].images.shape == (4, 20, 32, 3)
    assert received[0].parts["note"] == [b"0", b"1", b"2", b"3"]
    assert_same(rows_of(received), read(urls, size=32, transform_image=turned_with_note))
    resized = read(tmp_path / "out", resize="pad")[key_of(0)]
    assert (resized["part image"].shape, resized["part angle"].shape) == ((32, 32, 3), ())


@pytest.mark.parametrize("form", [*FILES, ARRAYS])
def test_an_image_that_is_none_any_more(run: RunFunction, urls: list[str], tmp_path: Path, form: str) -> None:
    """Another dtype and another order of axes come back as they were."""
    run(urls, format=form, transform_image=channels_first)
    assert_same(read(tmp_path / "out", size=16), read(urls, size=32, transform_image=channels_first))


@pytest.mark.parametrize("form", FILES)
def test_bytes_that_are_called_as_an_image_would_be(
    run: RunFunction, urls: list[str], tmp_path: Path, form: str
) -> None:
    """They are not decoded: the table tells that the rows had no image."""
    run(urls[:3], format=form, transform_image=only_bytes)
    assert read(tmp_path / "out") == {key_of(index): {"part jpg": b"%d" % index} for index in range(3)}


def test_arrays_of_a_transform(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """Each with its own dtype and shape; only the image is resized, if that is asked for."""
    run(urls, format="arrays", transform_image=image_and_depth)
    there = read(urls, size=32, transform_image=image_and_depth)
    here = read(tmp_path / "out")
    assert_same(here, {key: {name: there[key][name] for name in row} for key, row in here.items()})
    resized = read(tmp_path / "out", size=16, resize="crop")[key_of(0)]
    assert (resized["part image"].shape, resized["part depth"].shape) == ((16, 16, 3), (2, 2))


# A user's function behind the reading.


@pytest.mark.parametrize("form", ["webdataset", ARRAYS])
def test_a_function_of_the_stored_images(
    run: RunFunction, urls: list[str], items: list[dict[str, Any]], tmp_path: Path, form: str
) -> None:
    """It gets the image of a row, or each of several; the other parts stay."""
    parts = {"a": PARTS["photo"], "b": penstock.Image("image_url", size=8)}
    run(items, "parts", parts=parts, format=form, encode="png")
    run(urls, "made", format=form, encode="png", transform_image=image_and_depth)
    for folder in ("parts", "made"):
        before = read(tmp_path / folder)
        for key, row in read(tmp_path / folder, transform_image=invert_in_place).items():
            for name, value in row.items():
                is_image = value.ndim == 3
                np.testing.assert_array_equal(value, 255 - before[key][name] if is_image else before[key][name])


def test_a_function_of_the_stored_bytes(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """It gets the file of a plain run."""
    run(urls, format="files")
    heads = {row["part bin"] for row in read(tmp_path / "out", transform=length_head_and_name).values()}
    assert {head[:2] for head in heads} == {b"\xff\xd8"}


def test_what_is_refused(run: RunFunction, urls: list[str], items: list[dict[str, Any]], tmp_path: Path) -> None:
    """Other parts than those that are there; functions that would get nothing."""
    run(items, "parts", parts={"jpg": penstock.Image("image_url")})
    run(urls, "made", transform=length_head_and_name)
    with pytest.raises(penstock.ConfigError, match=r"parts: the shards in .* have what they were written with"):
        stream(tmp_path / "parts", parts=PARTS)
    for option in ("url_column", "caption_column"):
        with pytest.raises(penstock.ConfigError, match=rf"{option}: the shards in .* leave it out"):
            stream(tmp_path / "made", **{option: "another"})
    for folder in ("parts", "made"):
        with pytest.raises(penstock.ConfigError, match="have no single file for each row; use transform_image"):
            stream(tmp_path / folder, transform=length_head_and_name)
    with pytest.raises(penstock.ConfigError, match="have bin, length, name"):
        stream(tmp_path / "made", transform_image=invert_in_place)


# Columns, orders, epochs, states.


@pytest.mark.slow
def test_kept_columns_come_along(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path) -> None:
    """Of a plain run, too; others can be asked for, in each of the ways to give options."""
    run(items, "plain", url_column="image_url", keep_columns=("n", "caption"))
    rows = read(tmp_path / "plain")
    assert [rows[key_of(index)]["field n"] for index in (0, 1, 3)] == [0, 1, 3]
    assert rows[key_of(0)].keys() == {"part image", "field n", "field caption"}
    assert read(tmp_path / "plain", keep_columns="status")[key_of(0)]["field status"] == "success"
    config = penstock.StreamConfig(size=32, keep_columns=("n",), strategy="threads")
    with penstock.stream(tmp_path / "plain", config=config) as batches:
        assert next(batches).fields.keys() == {"n"}


def test_shuffles_and_epochs(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path) -> None:
    """Each epoch has all rows, in an order of its own."""
    run(items, parts=PARTS, shard_size=8, format="parquet")
    with stream(tmp_path / "out", shuffle=100, epochs=2, ordered=True) as batches:
        received = list(batches)
    orders = [[key for batch in received if batch.epoch == epoch for key in batch.keys] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == [key_of(index) for index in range(ROWS) if index != 2]
    first = read(tmp_path / "out")
    for batch in received:
        assert batch.parts["caption"] == [first[key]["part caption"] for key in batch.keys]


def test_a_stream_goes_on_where_it_stopped(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path) -> None:
    """What one has received the next one does not give, and that is all."""
    run(items, parts=PARTS, shard_size=8)
    with stream(tmp_path / "out", shuffle=8) as batches:
        before = rows_of(islice(batches, 2))
        state = json.loads(json.dumps(batches.state_dict()))
    with stream(tmp_path / "out", shuffle=8) as batches:
        batches.load_state_dict(state)
        after = rows_of(batches)
    assert before.keys().isdisjoint(after)
    assert_same(before | after, read(tmp_path / "out"))


@pytest.mark.slow
def test_in_a_process_of_its_own(run: RunFunction, items: list[dict[str, Any]], tmp_path: Path) -> None:
    """Worker processes give the same."""
    run(items, parts=PARTS, format="parquet")
    assert_same(read(tmp_path / "out", strategy="auto"), read(tmp_path / "out"))


@pytest.mark.parametrize("strategy", ["processes", "hybrid"])
def test_no_worker_fetches_what_lies_here(run: RunFunction, urls: list[str], tmp_path: Path, strategy: str) -> None:
    """Whatever the strategy, and with the size that was stored, though a config is given."""
    written = run(urls, format="webdataset").written
    config = penstock.StreamConfig(batch_size=16, strategy=strategy, workers=1)  # type: ignore[arg-type]  # a text of the parameters
    with penstock.stream(tmp_path / "out", config=config) as batches:
        shapes = [batch.images.shape[1:] for batch in batches for _ in batch.keys]
    assert shapes == [(32, 32, 3)] * written
