"""Penstock: a list of image URLs in, training-ready images out.

>>> import penstock
>>> report = penstock.run("urls.parquet", "out/", size=256, resize="crop")  # doctest: +SKIP
>>> images = penstock.load("arrays/")  # doctest: +SKIP

Everything public is here; each name is imported when it is first used, so that ``import penstock`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from penstock.comparison.compare import compare
    from penstock.comparison.results import Comparison
    from penstock.config import RunConfig, StreamConfig
    from penstock.errors import (
        AccountError,
        ConfigError,
        LocalError,
        MissingExtraError,
        NoImagesError,
        OutputError,
        OutputRefusedError,
        PenstockError,
        RowFailedError,
        SourceError,
        StateRefusedError,
        TooManyFailuresError,
        WorkerError,
    )
    from penstock.loading import load
    from penstock.parts import Column, Image, Images, Text
    from penstock.records import Outcome, Reason, Row
    from penstock.report.report import Report
    from penstock.runner import run
    from penstock.streaming.batch import Batch
    from penstock.streaming.stream import Stream, stream
    from penstock.verifying import verify

__all__ = [
    "AccountError",
    "Batch",
    "Column",
    "Comparison",
    "ConfigError",
    "Image",
    "Images",
    "LocalError",
    "MissingExtraError",
    "NoImagesError",
    "Outcome",
    "OutputError",
    "OutputRefusedError",
    "PenstockError",
    "Reason",
    "Report",
    "Row",
    "RowFailedError",
    "RunConfig",
    "SourceError",
    "StateRefusedError",
    "Stream",
    "StreamConfig",
    "Text",
    "TooManyFailuresError",
    "WorkerError",
    "compare",
    "load",
    "run",
    "stream",
    "verify",
]

_ROOMS = {
    "penstock.comparison.compare": ("compare",),
    "penstock.comparison.results": ("Comparison",),
    "penstock.config": ("RunConfig", "StreamConfig"),
    "penstock.errors": tuple(name for name in __all__ if name.endswith("Error")),
    "penstock.loading": ("load",),
    "penstock.parts": ("Column", "Image", "Images", "Text"),
    "penstock.records": ("Outcome", "Reason", "Row"),
    "penstock.report.report": ("Report",),
    "penstock.runner": ("run",),
    "penstock.streaming.batch": ("Batch",),
    "penstock.streaming.stream": ("Stream", "stream"),
    "penstock.verifying": ("verify",),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
