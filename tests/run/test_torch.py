"""What was written, in PyTorch; skipped where that is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

import penstock


def test_loaded_arrays_feed_a_data_loader(
    run: Callable[..., penstock.Report], urls: list[str], tmp_path: Path, require_torch: ModuleType
) -> None:
    """Arrays on disk are a map-style dataset as they are: floats in [0, 1], in the order of the keys."""
    run(urls, format="arrays")
    images = penstock.load(tmp_path / "out", dtype="float32")
    batches = list(require_torch.utils.data.DataLoader(images, batch_size=16))
    assert [len(batch) for batch in batches] == [16, 16, 6]
    assert np.array_equal(require_torch.cat(batches).numpy(), np.asarray(images))
