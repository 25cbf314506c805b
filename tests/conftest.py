"""What all tests share: a clean environment, the image server, and a check that nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import ModuleType

import hypothesis
import pytest

from penstock.fetch.client import new_event_loop
from penstock.testing.leaks import no_leaks
from penstock.testing.server import ImageServer


def pytest_configure(config: pytest.Config) -> None:
    """Register our marker and the profiles of Hypothesis; forget the proxies of the machine."""
    config.addinivalue_line("markers", "leaks_ok(reason): what the test leaves behind is not looked at, because …")
    hypothesis.settings.register_profile("default", deadline=None)  # a busy machine is no counterexample
    hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _once_a_process() -> None:
    # What a process opens once and keeps is no leak of the test that happens to be first: multiprocessing's helper
    # process, and the pipe by which libuv hears of signals.
    resource_tracker.ensure_running()
    new_event_loop().close()


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves threads, descriptors, processes or shared memory.

    Being autouse, it starts before the test's own fixtures and ends after them. Fixtures of a wider scope start even
    earlier, so they may keep what they hold.
    """
    mark = request.node.get_closest_marker("leaks_ok")
    if mark is None:
        with no_leaks():
            yield
        return
    if not (mark.args or mark.kwargs.get("reason")):
        pytest.fail("@pytest.mark.leaks_ok needs a reason", pytrace=False)
    yield


@pytest.fixture(scope="session")
def image_server() -> Iterator[ImageServer]:
    """A server of 20 small pictures without latency, shared by all tests: compare two readings of its statistics."""
    with ImageServer(count=20, mean_bytes=4_000) as server:
        yield server


@pytest.fixture(scope="session")
def require_torch() -> ModuleType:
    """The torch module; the test is skipped where it is not installed."""
    torch: ModuleType = pytest.importorskip("torch", reason="torch is not installed: it is large, so dev leaves it out")
    return torch
