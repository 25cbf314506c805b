"""The demonstration: a server of generated pictures, a list with two flaws, and a run over it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from penstock.config import RunConfig, Strategy
from penstock.errors import ConfigError, OutputError, OutputRefusedError
from penstock.folder import HIDDEN, OutputFolder
from penstock.report.contact_sheet import contact_sheet
from penstock.report.report import Report
from penstock.runner import Run
from penstock.testing.server import ImageServer

__all__ = ["Demo", "demo_urls"]

PICTURES = 200
"""Distinct pictures that the server makes, at most."""

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

    @property
    def pictures(self) -> int:
        """Distinct pictures to make: no more than there are rows."""
        return min(PICTURES, self.count)

    def take_folder(self) -> None:
        """Make the folder a demo's, before anything slow is begun.

        Raises:
            OutputRefusedError: it holds other files, or a run that is no demo.
            OutputError: it cannot be written.
        """
        with OutputFolder(self.out) as folder:
            mark = self.out / HIDDEN / "demo"
            if folder.read_ledger().manifest is None:
                mark.touch()
            elif not mark.exists():
                raise OutputRefusedError(f"{self.out} holds a run that is no demo; give another --out")

    def run_on(self, server: ImageServer) -> Run:
        """The run over the server's pictures; what an earlier demo left in the folder is replaced."""
        config = RunConfig(
            size=128,
            strategy=self.strategy,
            per_host=256,  # the server is ours: no need to be gentle
            allow_network=("127.0.0.0/8",),
            overwrite=True,
        )
        return Run(demo_urls(server, self.count), self.out, config=config)

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
