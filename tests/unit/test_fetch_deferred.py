"""The fetcher that is made when it starts."""

from __future__ import annotations

import subprocess
import sys

from flow.fakes import FakeFetcher
from penstock.fetch.base import FetchStatistics
from penstock.fetch.budget import ByteBudget
from penstock.fetch.deferred import DeferredFetcher


def test_it_stands_for_the_fetcher_that_it_makes() -> None:
    """Nothing is made before the start, and from then on everything goes to what was made."""
    made: list[FakeFetcher] = []

    def make() -> FakeFetcher:
        made.append(FakeFetcher())
        return made[-1]

    fetcher = DeferredFetcher(4, make)
    assert (made, fetcher.statistics()) == ([], FetchStatistics())
    fetcher.close()
    fetcher.start(lambda *_: None, ByteBudget(1), lambda _: None)
    fetcher.close()
    assert [one.closed for one in made] == [1]


def test_wiring_a_lane_does_not_load_the_network() -> None:
    """aiohttp is loaded when the fetcher starts, beside the workers' own start, and not before."""
    code = (
        "import sys\n"
        "from penstock.build import Setup, build_lane, build_work\n"
        "from penstock.config import RunConfig\n"
        "from penstock.image.work import NO_STEPS\n"
        "config = RunConfig()\n"
        "build_lane(Setup('asyncio', 'threads', 1, 1), config, build_work(config, NO_STEPS, as_array=True))\n"
        "assert 'aiohttp' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
