"""The demonstration: a server of generated pictures, a list with two flaws, and a run over it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from penstock.config import RunConfig, Strategy
from penstock.errors import ConfigError, OutputError
from penstock.folder import HIDDEN
from penstock.report.contact_sheet import contact_sheet
from penstock.report.report import Report
from penstock.runner import Run
from penstock.testing.server import ImageServer

__all__ = ["Demo", "demo_urls"]

PICTURES = 200
"""Distinct pictures that the server makes."""

LATENCY = 0.05
"""Seconds that the server lets every request wait: about what a server on the same continent takes."""

SHEET = "contact_sheet.png"
SHEET_IMAGES = 64


def demo_urls(server: ImageServer, count: int) -> list[str]:
    """`count` URLs, of which one answers 404 and one is a JPEG that was cut in its middle."""
    urls = server.image_urls(count)
    urls[count // 3] = f"{server.url}/status/404?i={count // 3}"
    urls[2 * count // 3] = f"{server.url}/truncated/{server.pictures[0]}?i={2 * count // 3}"
    return urls


@dataclass(frozen=True, slots=True)
class Demo:
    """What is to be shown."""

    count: int = 1000
    """URLs, at least 3."""
    out: Path = Path("penstock-demo")
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        """Two URLs fail, so fewer than three would show nothing."""
        if self.count < 3:
            raise ConfigError(f"--count {self.count}: expected a number of at least 3")

    def run_on(self, server: ImageServer) -> Run:
        """The run over the server's pictures; what an earlier demo left in the folder is replaced."""
        config = RunConfig(
            size=128,
            strategy=self.strategy,
            per_host=256,  # the server is ours: no need to be gentle
            allow_network=("127.0.0.0/8",),
            overwrite=self._take_folder(),
        )
        return Run(demo_urls(server, self.count), self.out, config=config)

    def _take_folder(self) -> bool:
        """Mark a new or empty folder as a demo's; True if an earlier demo has marked it."""
        mark = self.out / HIDDEN / "demo"
        if mark.exists():
            return True
        if not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            try:
                mark.parent.mkdir(parents=True)
                mark.touch()
            except OSError as error:
                raise OutputError(f"cannot write to {self.out}: {error.strerror}") from error
        return False

    @property
    def sheet(self) -> Path:
        """Where the contact sheet lies."""
        return self.out / SHEET

    def write_sheet(self, report: Report) -> Path:
        """Put the first results side by side on one picture."""
        images = [image for _, image in zip(range(SHEET_IMAGES), _images(report.path), strict=False)]
        try:
            contact_sheet(images).save(self.sheet)
        except OSError as error:
            raise OutputError(f"cannot write {self.sheet}: {error.strerror}") from error
        return self.sheet


def _images(folder: Path) -> Iterator[Image.Image]:
    for shard in sorted(folder.glob("[0-9]*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    handle = tar.extractfile(member)
                    assert handle is not None
                    yield Image.open(io.BytesIO(handle.read()))
