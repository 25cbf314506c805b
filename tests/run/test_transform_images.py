"""A user's functions in whole runs: transforms of the pixels, what is set up in each worker, what is told of exceptions."""

from __future__ import annotations

import functools
import io
import json
import logging
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import penstock
from penstock.config import STRATEGIES
from penstock.testing.server import ImageServer
from run import transforms

RunFunction = Callable[..., penstock.Report]


@pytest.fixture
def few(image_server: ImageServer) -> list[str]:
    """Six good URLs."""
    return image_server.image_urls(6)


@pytest.fixture
def listing(image_server: ImageServer, tmp_path: Path) -> Path:
    """A list in a file, which lanes can open for themselves; 48 good URLs."""
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(image_server.image_urls(48)) + "\n")
    return path


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {name: handle.read() for name in tar.getnames() if (handle := tar.extractfile(name))}


@pytest.fixture
def plain(run: RunFunction, few: list[str], tmp_path: Path) -> Any:
    """The images as they are without a transform."""
    run(few, "plain", format="arrays")
    return np.load(tmp_path / "plain/00000.npy")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_transforms_images(
    run: RunFunction, few: list[str], plain: Any, tmp_path: Path, strategy: str
) -> None:
    """What the function returns is what is stored, wherever it runs."""
    report = run(few, format="arrays", strategy=strategy, workers=2, transform_image=transforms.upside_down)
    assert report.written == 6
    assert (np.load(tmp_path / "out/00000.npy") == plain[:, ::-1]).all()


@pytest.mark.parametrize("strategy", ["threads", "hybrid"])
def test_work_in_place_is_safe(run: RunFunction, few: list[str], plain: Any, tmp_path: Path, strategy: str) -> None:
    """The pixels are the function's own: six rows, each inverted once."""
    run(few, format="arrays", strategy=strategy, workers=2, transform_image=transforms.invert_in_place)
    assert (np.load(tmp_path / "out/00000.npy") == 255 - plain).all()


def test_images_are_encoded_as_without_a_transform(
    run: RunFunction, few: list[str], plain: Any, tmp_path: Path
) -> None:
    """A uint8 image becomes a file of the kind that the options name, and the table knows its size."""
    run(few, encode="png", transform_image=transforms.upside_down)
    files = members(tmp_path / "out/00000.tar")
    assert list(files)[:2] == ["000000000.png", "000000000.json"]
    assert (np.asarray(Image.open(io.BytesIO(files["000000000.png"]))) == plain[0, ::-1]).all()
    meta = json.loads(files["000000000.json"])
    assert (meta["width"], meta["height"]) == (32, 32)
    assert meta["original_width"] > 32


def test_other_arrays_are_stored_as_they_are(
    run: RunFunction, image_server: ImageServer, plain: Any, tmp_path: Path
) -> None:
    """Scaled floats are no image; and the function sees the kept columns."""
    rows = [{"url": url, "label": 10 * n} for n, url in enumerate(image_server.image_urls(6))]
    run(rows, keep_columns=("label",), transform_image=transforms.scaled_with_label)
    files = members(tmp_path / "out/00000.tar")
    assert list(files)[:3] == ["000000000.npy", "000000000.label.npy", "000000000.json"]
    assert (np.load(io.BytesIO(files["000000002.npy"])) == plain[2].astype(np.float32) / 255).all()
    assert np.load(io.BytesIO(files["000000002.label.npy"])) == 20


def test_functions_that_cannot_be_used_are_refused(run: RunFunction, few: list[str], tmp_path: Path) -> None:
    """Before anything is written, and the argument is named."""
    with pytest.raises(penstock.ConfigError, match=r"^transform_image, a lambda, .*--strategy threads"):
        run(few, strategy="asyncio", transform_image=lambda image, row: image)
    with pytest.raises(penstock.ConfigError, match=r"^initializer\.args\[0\], a generator, "):
        run(few, strategy="asyncio", initializer=functools.partial(sorted, (x for x in "ab")))
    with pytest.raises(penstock.ConfigError, match="give one of the two"):
        run(few, transform=transforms.length_head_and_name, transform_image=transforms.upside_down)
    assert not (tmp_path / "out").exists()


def test_another_function_is_another_run(run: RunFunction, few: list[str]) -> None:
    """A folder remembers each of them by its name."""
    run(few, transform_image=transforms.upside_down)
    assert run(few, transform_image=transforms.upside_down).rows_settled == 0
    with pytest.raises(penstock.OutputRefusedError, match=r"upside_down.*invert_in_place"):
        run(few, transform_image=transforms.invert_in_place)


@pytest.mark.parametrize("strategy", ["threads", "asyncio"])
def test_a_streams_workers_are_set_up(few: list[str], tmp_path: Path, strategy: str) -> None:
    """Before their first row; and what the function returns is in the batch."""
    options: dict[str, Any] = {"strategy": strategy, "workers": 2, "size": 16, "allow_network": ("127.0.0.0/8",)}
    set_up = functools.partial(transforms.set_up, tmp_path)
    with penstock.stream(few, initializer=set_up, transform_image=transforms.scaled_as_set_up, **options) as batches:
        (batch,) = batches
    assert batch.images.max() <= 127
    workers = {"-".join(map(str, worker)) for worker in batch.parts["worker"]}
    assert workers <= {mark.name for mark in tmp_path.iterdir()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_worker_is_set_up_once(run: RunFunction, few: list[str], tmp_path: Path, strategy: str) -> None:
    """Whatever a worker is, and each of those that did a row was."""
    marks = tmp_path / "marks"
    marks.mkdir()
    report = run(
        few,
        format="arrays",
        strategy=strategy,
        workers=2,
        initializer=functools.partial(transforms.set_up, marks),
        transform_image=transforms.scaled_as_set_up,
    )
    assert report.written == 6
    workers = {"-".join(map(str, worker)) for worker in np.load(tmp_path / "out/00000.worker.npy")}
    assert workers <= {mark.name for mark in marks.iterdir()}
    assert len(list(marks.iterdir())) <= 2


@pytest.mark.parametrize("options", [{"strategy": "threads"}, {"strategy": "asyncio"}, {"lanes": 2, "workers": 2}])
def test_an_initializer_that_raises_stops_the_run(run: RunFunction, listing: Path, options: dict[str, Any]) -> None:
    """With one line, from however far away."""
    expected = (
        r"initializer, run\.transforms\.fail_to_set_up, raised FileNotFoundError: model\.bin \(transforms\.py:\d+\)$"
    )
    with pytest.raises(penstock.WorkerError, match=expected):
        run(listing, initializer=transforms.fail_to_set_up, **options)


@pytest.mark.parametrize(
    "options", [{"strategy": "threads"}, {"strategy": "processes"}, {"strategy": "asyncio"}, {"lanes": 2}]
)
def test_a_traceback_for_each_kind_of_exception(
    run: RunFunction, listing: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """Of 48 rows 32 fail in two ways, in several workers: two tracebacks in the log, and the same two in the report."""
    with caplog.at_level(logging.WARNING, "penstock"):
        report = run(listing, transform_image=transforms.raise_two_kinds, **{"workers": 4, "shard_size": 8} | options)
    assert (report.written, report.reasons) == (16, {"transform.error": 32})
    kinds = sorted(kind.replace(str(transforms.__file__), "FILE") for kind in report.tracebacks)
    first = transforms.raise_two_kinds.__code__.co_firstlineno + 3
    assert kinds == [f"ValueError at FILE:{first}", f"ValueError at FILE:{first + 2}"]
    logged = [record.getMessage() for record in caplog.records if "the transform raised" in record.getMessage()]
    assert logged == [
        f"the transform raised {kind}; such rows fail as transform.error\n{trace}"
        for kind, trace in report.tracebacks.items()
    ]
    assert all(
        re.search(r'^  File ".*transforms\.py", line \d+, in raise_two_kinds$', trace, re.MULTILINE) for trace in logged
    )
    assert json.loads((tmp_path / "out/report.json").read_text())["tracebacks"] == report.tracebacks
