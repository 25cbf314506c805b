"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.testing.server import ImageServer

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
def urls(image_server: ImageServer) -> list[str]:
    """Forty URLs, of which the 7th is a 404 and the 20th a truncated JPEG."""
    urls = image_server.image_urls(40)
    urls[7] = f"{image_server.url}/status/404?i=7"
    urls[20] = f"{image_server.url}/truncated/{image_server.pictures[0]}"
    return urls


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., penstock.Report]:
    """`penstock.run` into ``out`` below the test's folder, small and quick."""

    def run(source: Any, out: str = "out", **options: Any) -> penstock.Report:
        defaults = {
            "size": 32,
            "shard_size": 16,
            "workers": 1,
            "per_host": 64,
            "allow_network": LOOPBACK,
            "timeout": 10,
        }
        return penstock.run(source, tmp_path / out, **{**defaults, **options})

    return run
