"""``--dedup``: every URL is fetched once, and the other rows say why they were not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import penstock
from penstock.config import RunConfig
from penstock.runner import Run
from penstock.testing.server import ImageServer

RunFunction = Callable[..., penstock.Report]


def reasons(out: Path) -> dict[str, str | None]:
    """Of each row, over all tables."""
    return {
        row["key"]: row["reason"]
        for path in out.glob("*.parquet")
        for row in pq.read_table(path, columns=["key", "reason"]).to_pylist()
    }


@pytest.fixture
def repeating(urls: list[str], tmp_path: Path) -> Path:
    """A list that names each URL three times: one after the other, and once more at its end."""
    listing = tmp_path / "urls.txt"
    listing.write_text("".join(f"{url}\n{url}#again\n" for url in urls) + "".join(f"{url}\n" for url in urls))
    return listing


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "lanes"), [("asyncio", 1), ("asyncio", 2), ("processes", 1), ("threads", 1)])
def test_each_url_once(
    repeating: Path, urls: list[str], tmp_path: Path, image_server: ImageServer, strategy: str, lanes: int
) -> None:
    """The first row of a URL is written, the others are skipped; the server is asked once."""
    asked = image_server.statistics().requests
    out = tmp_path / "out"
    report = penstock.run(
        repeating, out, dedup=True, strategy=strategy, lanes=lanes, shard_size=7, allow_network="127.0.0.0/8", workers=2
    )
    assert (report.rows, report.written, report.failed, report.skipped) == (120, 38, 2, 80)
    assert report.reasons == {"policy.duplicate": 80, "http.not_found": 1, "image.truncated": 1}
    assert image_server.statistics().requests - asked == len(urls)
    duplicates = [key for key, reason in reasons(out).items() if reason == "policy.duplicate"]
    assert sorted(map(int, duplicates)) == [*range(1, 80, 2), *range(80, 120)]
    assert penstock.run(repeating, out, dedup=True, shard_size=7, allow_network="127.0.0.0/8").rows_settled == 0, (
        "the folder holds this run, finished"
    )


def test_goes_on_where_it_was_stopped(repeating: Path, urls: list[str], tmp_path: Path) -> None:
    """What is a duplicate does not depend on how often a run was stopped."""
    config = RunConfig(dedup=True, shard_size=5, allow_network=("127.0.0.0/8",), strategy="threads", workers=1)
    out = tmp_path / "out"
    stopped = Run(repeating, out, config=config, tick=0.0)

    def stop_soon(progress: object, _: object) -> None:
        stopped.stop()

    first = stopped.execute(stop_soon)
    assert not first.finished
    second = penstock.run(repeating, out, config=config)
    assert second.finished
    assert (second.written, second.failed, second.skipped) == (38, 2, 80)


def test_stopped_while_it_looks_for_them(repeating: Path, tmp_path: Path) -> None:
    """Ctrl-C is heard before the first row is fetched, too."""
    run = Run(repeating, tmp_path / "out", config=RunConfig(dedup=True))
    run.stop()
    with pytest.raises(KeyboardInterrupt):
        run.execute()
    assert not (tmp_path / "out/.penstock/duplicates.npy").exists()


def test_without_duplicates(run: RunFunction, urls: list[str]) -> None:
    """A list in which every URL stands once is a list like any other."""
    report = run(urls, dedup=True)
    assert (report.written, report.skipped) == (38, 0)


def test_list_that_can_be_read_once(tmp_path: Path) -> None:
    """It is refused before anything is written, and the message says why."""

    def once() -> Iterator[str]:
        yield "http://example.com/a.jpg"

    with pytest.raises(
        penstock.ConfigError, match="--dedup reads the list twice, and the generator can be read only once"
    ):
        penstock.run(once(), tmp_path / "out", dedup=True)
    assert not (tmp_path / "out").exists()


def test_another_choice_is_refused(run: RunFunction, urls: list[str]) -> None:
    """A folder that was made without --dedup does not go on with it."""
    run(urls)
    with pytest.raises(penstock.OutputRefusedError, match="--dedup was False there and is True now"):
        run(urls, dedup=True)
