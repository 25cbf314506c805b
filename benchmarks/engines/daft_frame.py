"""Daft over a list of URLs, on its runner for one machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import daft
from daft.functions import decode_image, download, resize

from engines.job import SIZE, WARM_ROWS, Course, Figures, Job, Run


@contextmanager
def native(job: Job) -> Iterator[Run]:
    """Its own download, decode and resize, all of them in Rust."""
    daft.set_runner_native()
    consume(images(job.warm), WARM_ROWS)
    yield lambda: consume(images(job.listing), job.rows)


def images(listing: Path) -> daft.DataFrame:
    data = download(daft.col("url"), on_error="null")
    return daft.read_parquet(str(listing)).select(
        resize(decode_image(data, on_error="null"), SIZE, SIZE).alias("image")
    )


def consume(frame: daft.DataFrame, rows: int) -> Figures:
    """Take what comes; a row that failed would be a null, and missed at the end."""
    course = Course(rows)
    for batch in frame.to_arrow_iter():
        column = batch.column("image")
        course.more(len(column) - column.null_count)
    return course.figures()
