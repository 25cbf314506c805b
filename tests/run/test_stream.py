"""`penstock.stream` over HTTP, as a training loop sees it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import penstock
from flow.stream_fakes import inverted, numbers_of, send_keys
from penstock.config import StreamConfig
from penstock.errors import ConfigError, NoImagesError, RowFailedError, SourceError, TooManyFailuresError
from penstock.image.work import NO_STEPS, ImageWork
from penstock.records import Fetched, Reason, Sample
from penstock.streaming.planning import Plan, make_plan
from penstock.streaming.state import State
from penstock.streaming.stream import Stream
from penstock.testing.server import ImageServer

LOOPBACK = ("127.0.0.0/8",)


def stream(source: Any, **options: Any) -> Stream:
    """`penstock.stream`, small and quick; with threads, whose start costs the least."""
    defaults = {"size": 32, "batch_size": 8, "workers": 1, "per_host": 64, "allow_network": LOOPBACK, "timeout": 10}
    return penstock.stream(source, **{**defaults, "strategy": "threads", **options})


# What comes.


@pytest.mark.parametrize("strategy", ["auto", "asyncio", "hybrid", "processes", "threads"])
def test_a_list_of_urls_becomes_batches(urls: list[str], strategy: str) -> None:
    """Full ones but for the last, whatever does the work; and an account that closes."""
    with stream(urls, strategy=strategy) as batches:
        received = list(batches)
        report = batches.report
    assert [len(batch) for batch in received] == [8, 8, 8, 8, 6]
    assert sorted(numbers_of(received)) == [index for index in range(40) if index not in (7, 20)]
    assert all(batch.images.shape == (len(batch), 32, 32, 3) for batch in received)
    assert all(batch.images.dtype == np.uint8 for batch in received)
    assert (report.rows, report.written, report.failed, report.skipped) == (40, 38, 2, 0)
    assert report.reasons == {"http.not_found": 1, "image.truncated": 1}
    assert report.finished
    assert report.bytes_downloaded > 38 * 1000
    assert (report.strategy, report.workers, report.format) == (strategy, 1, "stream")
    assert report.peak_rss_bytes > 0


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_images_are_those_of_a_run(image_server: ImageServer, resize: Any) -> None:
    """The same decode and resize, as arrays."""
    urls = image_server.image_urls(10)
    with stream(urls, ordered=True, resize=resize) as batches:
        images = np.concatenate([batch.images for batch in batches])
        work = ImageWork(batches.config.part(penstock.config.ImageConfig), as_array=True)
    for image, picture in zip(images, image_server.pictures[:10], strict=True):
        sample = work(penstock.records.Row(0, ()), (fetched(image_server, picture),)).value
        assert isinstance(sample, Sample)
        assert image.tobytes() == np.asarray(sample.parts["image"]).tobytes()


def fetched(server: ImageServer, picture: str) -> Fetched:
    connection = server._connect()
    try:
        connection.request("GET", f"/image/{picture}")
        return Fetched("image", connection.getresponse().read(), 200, 1, 0.0)
    finally:
        connection.close()


def test_a_stream_says_how_far_it_is(urls: list[str]) -> None:
    """At a prompt, for people."""
    batches = stream(urls)
    assert repr(batches) == "<Stream of the list, in epoch 0, 0 rows received>"
    list(batches)
    assert repr(batches) == "<Stream of the list, at its end, 40 rows received>"
    batches.close()


def test_the_report_is_live(urls: list[str]) -> None:
    """Before the first batch, after each, and at the end."""
    batches = stream(urls, epochs=2)
    assert (batches.report.rows, batches.report.finished, batches.report.seconds) == (0, False, 0.0)
    with batches:
        written = 0
        for batch in batches:
            written += len(batch)
            assert batches.report.written == written
    report = batches.report
    assert report.written == written == 76
    assert report.rows == report.rows_settled == 80
    assert report.seconds == batches.report.seconds > 0  # the clock stands
    assert "none" not in report.verdict


def test_a_parquet_file_with_columns(image_server: ImageServer, tmp_path: Path) -> None:
    """Read by the stream's own process."""
    urls = image_server.image_urls(20)
    table = {"link": urls, "text": [f"no. {index}" for index in range(20)], "label": [index % 3 for index in range(20)]}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    columns: dict[str, Any] = {"url_column": "link", "caption_column": "text", "keep_columns": ("label",)}
    with stream(str(tmp_path / "list.parquet"), epochs=2, **columns) as batches:
        received = list(batches)
    for batch in received:
        assert batch.captions == [f"no. {number}" for number in numbers_of([batch])]
        assert batch.fields == {"label": [number % 3 for number in numbers_of([batch])]}
    assert sorted(numbers_of(received)) == sorted([*range(20)] * 2)


def test_parts_share_the_rows(urls: list[str]) -> None:
    """Each row is in one of them."""
    numbers = []
    for part in range(3):
        with stream(urls, split=(part, 3), shuffle=20) as batches:
            numbers += numbers_of(batches)
    assert sorted(numbers) == [index for index in range(40) if index not in (7, 20)]


def test_even_parts_have_equal_numbers_of_batches(urls: list[str]) -> None:
    """Though their rows fail in unequal numbers."""
    for part in range(3):
        with stream(urls, split=(part, 3), even=True, epochs=2) as batches:
            assert [(batch.epoch, len(batch)) for batch in batches] == [(0, 8), (0, 8), (1, 8), (1, 8)]


def test_a_transform_in_worker_processes(image_server: ImageServer) -> None:
    """By the name of its module."""
    options: dict[str, Any] = {"ordered": True, "batch_size": 10}
    with stream(image_server.image_urls(10), **options) as batches:
        (plain,) = batches
    with stream(image_server.image_urls(10), strategy="auto", transform_image=inverted, **options) as batches:
        (negative,) = batches
    assert np.array_equal(negative.images, 255 - plain.images)


@pytest.mark.parametrize(
    ("size", "memory", "window"),
    [(256, 2**24, 128), (256, 2**30, 682), (32, 2**30, 1024)],
    ids=["two batches", "an eighth of the memory", "at most"],
)
def test_the_window_of_an_ordered_stream(size: int, memory: int, window: int) -> None:
    """Rows that may wait for one that is late: as many as fit into an eighth of `memory`, within bounds."""
    options = {"size": size, "memory": memory, "ordered": True}
    plan = make_plan(["https://example.com/"], NO_STEPS, split=(0, 1), even=False, config=None, options=options)
    assert plan._job(State({})).window == window


# What is wrong with rows.


def test_a_failure_can_be_an_error(urls: list[str]) -> None:
    """The first one in the order of the list, with its outcome."""
    with stream(urls, on_failure="raise", ordered=True, batch_size=4) as batches:
        assert numbers_of([next(batches)]) == [0, 1, 2, 3]
        with pytest.raises(RowFailedError, match=r"row 7, .*/status/404\?i=7: http\.not_found") as caught:
            list(batches)
    assert caught.value.outcome.reason is Reason.HTTP_NOT_FOUND


def test_too_many_failures_are_an_error(image_server: ImageServer) -> None:
    """After the probation."""
    bad = [f"{image_server.url}/status/404?i={index}" for index in range(100)]
    urls = [url for pair in zip(image_server.image_urls(100), bad, strict=True) for url in pair]
    with stream(urls, ordered=True, min_success=0.5) as batches:
        assert len(numbers_of(batches)) == 100
    message = r"only \d+ of the first \d{3} rows gave an image, and min_success is 0\.9:\n +\d+  http\.not_found"
    with stream(urls, ordered=True, min_success=0.9) as batches, pytest.raises(TooManyFailuresError, match=message):
        list(batches)


@pytest.mark.parametrize("options", [{"epochs": None}, {"even": True, "epochs": None}])
def test_without_an_image_there_is_no_endless_loop(image_server: ImageServer, options: dict[str, Any]) -> None:
    """But an error with the table of reasons."""
    urls = [f"{image_server.url}/status/404?i={index}" for index in range(10)]
    message = r"none of the .* rows gave an image:\n +\d+  http\.not_found"
    with stream(urls, **options) as batches, pytest.raises(NoImagesError, match=message):
        next(batches)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_list_shorter_than_a_batch(urls: list[str], drop_last: bool) -> None:
    """One that is not full; or none, and each image has its reason."""
    with stream(urls, batch_size=64, drop_last=drop_last) as batches:
        received = list(batches)
        report = batches.report
    assert [len(batch) for batch in received] == ([] if drop_last else [38])
    assert (report.written, report.failed, report.skipped) == ((0, 2, 38) if drop_last else (38, 2, 0))
    assert report.reasons.get("policy.drop_last") == (38 if drop_last else None)


def test_a_list_shorter_than_a_batch_without_end(urls: list[str]) -> None:
    """It would never give a batch."""
    with (
        stream(urls, batch_size=64, drop_last=True, epochs=None) as batches,
        pytest.raises(NoImagesError, match=r"an epoch has 38 images, too few for a batch of 64 \(drop_last\)"),
    ):
        next(batches)


# What is wrong with the call.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batchsize": 3}, "unknown option 'batchsize'; did you mean batch_size?"),
        ({"lanes": 2}, "unknown option 'lanes'"),
        ({"quality": 90}, "unknown option 'quality'"),
        ({"config": StreamConfig(lanes=3)}, "lanes: means nothing to a stream"),
        ({"resize": "fit"}, "resize='fit': a batch needs one shape for all images; expected one of crop, stretch, pad"),
        ({"resize": "none"}, "resize='none': a batch needs one shape"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"split": (2, 2)}, r"split \(2, 2\): expected \(i, n\)"),
        ({"split": 3}, "split 3: expected"),
        ({"split": (0.5, 2)}, r"split \(0.5, 2\): expected"),
        ({"split": (0, 50), "even": True}, "the list has 40 rows for 50 parts"),
        ({"split": (0, 3), "even": True, "drop_last": True, "batch_size": 16}, "not enough for a batch of 16 each"),
        ({"transform": "upper"}, "transform: expected a function"),
        ({"keep_columns": ("label",)}, "'label'"),
    ],
)
def test_what_cannot_be_meant_is_refused(urls: list[str], options: dict[str, Any], message: str) -> None:
    """Before anything is started, and with what is allowed."""
    with pytest.raises((ConfigError, SourceError), match=message):
        stream(urls, **options)


def test_a_lambda_is_named(urls: list[str]) -> None:
    """With what to do; with threads it works, and stands in this process."""
    with pytest.raises(
        ConfigError, match=r"transform_image, a lambda, .*top level of a module, or give strategy=\"threads\""
    ):
        stream(urls, strategy="auto", transform_image=lambda image, row: image)
    with stream(urls, transform_image=lambda image, row: image[::2]) as batches:
        assert next(batches).images.shape == (8, 16, 32, 3)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """And not when the first batch is asked for."""
    with pytest.raises(SourceError, match=r"nowhere\.txt"):
        stream(str(tmp_path / "nowhere.txt"))


# Where it stands.


@pytest.mark.slow
def test_a_daemonic_process_has_no_children(urls: list[str]) -> None:
    """Threads do the work there."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with ours, theirs:
        process = context.Process(target=send_keys, args=(urls, theirs), daemon=True)
        process.start()
        assert ours.poll(60), "it hangs"
        numbers, threads, crew = ours.recv()
        process.join()
        process.close()
    assert sorted(numbers) == [index for index in range(40) if index not in (7, 20)]
    assert threads == 0  # none is left at the end of the stream
    assert crew == "threads"


def test_nothing_is_started_before_the_first_batch(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor read, but to see that it is a list."""

    def started(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Plan, "open_host", started)
    batches = stream(urls)
    batches.close()
