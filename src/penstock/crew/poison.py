"""The bytes of rows that a worker was lost over, kept for whoever wants to find out why."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from penstock.records import Failure, Fetched, Reason, Result, Row

__all__ = ["PoisonCabinet"]

POISONOUS = frozenset({Reason.DECODE_CRASH, Reason.DECODE_OOM, Reason.DECODE_TIMEOUT, Reason.DECODE_MEMORY})

_logger = logging.getLogger("penstock")


class PoisonCabinet:
    """A folder with ``KEY.PART.bin`` for each part of a poisonous row, and a ``.json`` beside it that says what it did.

    It is made when it is needed. One that cannot be written is told of once, in the log: it costs no row.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._usable = True

    def keep_if_poison(self, row: Row, fetched: tuple[Fetched, ...], result: Result) -> None:
        """Keep what was fetched for this row, if its result says that it is poison."""
        failure = result.value
        if not self._usable or not isinstance(failure, Failure) or failure.reason not in POISONOUS:
            return
        try:
            self._keep(row, fetched, failure)
        except OSError as error:
            self._usable = False
            _logger.warning("--keep-poison: no more images are kept, as the folder cannot be written: %s", error)

    def _keep(self, row: Row, fetched: tuple[Fetched, ...], failure: Failure) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        urls = {request.part: request.url for request in row.requests}
        for part in fetched:
            label = {"url": urls.get(part.part), "reason": failure.reason.value, "detail": failure.detail}
            name = f"{row.key}.{part.part}"
            (self._folder / f"{name}.bin").write_bytes(part.data)
            (self._folder / f"{name}.json").write_text(json.dumps(label), encoding="utf-8")
