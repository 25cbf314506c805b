"""What the suites over both fetchers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from conformance.fetching import FETCHERS, Server
from penstock.fetch.base import Fetcher


@pytest.fixture(params=list(FETCHERS))
def make(request: pytest.FixtureRequest) -> Callable[..., Fetcher]:
    return FETCHERS[request.param]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
