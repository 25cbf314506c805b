"""The example of other libraries' augmentations works with the real libraries."""

from __future__ import annotations

import importlib
import importlib.util
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import penstock
from penstock.testing.server import ImageServer

RunFunction = Callable[..., penstock.Report]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def augmentations(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, as a module that workers can import; no test asks the network for a newer albumentations."""
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("augmentations")


@pytest.fixture(scope="session")
def _torchvision(require_torch: Any) -> Iterator[None]:
    """torchvision can be imported.

    Its wheels on the usual index are built for CUDA. Beside a torch that is not, its library of operators does not load,
    and the import fails for want of two of them. No transform uses these, so that to declare them is enough.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: it is large, so dev leaves it out")
    library = require_torch.library.Library("torchvision", "FRAGMENT")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
    yield
    library._destroy()


def pictures(archive: Path) -> list[Any]:
    """The pixels of all pictures in a shard."""
    with tarfile.open(archive) as tar:
        handles = [tar.extractfile(name) for name in tar.getnames() if name.endswith(".png")]
        return [np.asarray(Image.open(io.BytesIO(handle.read()))) for handle in handles if handle]


@pytest.fixture
def check(
    run: RunFunction, augmentations: ModuleType, image_server: ImageServer, tmp_path: Path
) -> Callable[[str, str], None]:
    """One picture, eight times: eight different ones come out, of the size that the example asks for."""

    def check(library: str, strategy: str) -> None:
        set_up, augment = augmentations.LIBRARIES[library]
        urls = image_server.image_urls(1) * 8
        options = {"size": 256, "encode": "png", "strategy": strategy, "workers": 2}
        report = run(urls, initializer=set_up, transform_image=augment, **options)
        assert report.written == 8, report.tracebacks
        made = pictures(tmp_path / "out/00000.tar")
        assert {picture.shape for picture in made} == {(224, 224, 3)}
        assert len({picture.tobytes() for picture in made}) == 8

    return check


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["threads", "asyncio"])
def test_albumentations(check: Callable[[str, str], None], strategy: str) -> None:
    """In threads and in worker processes."""
    pytest.importorskip("albumentations", reason="albumentations is not installed: dev leaves it out")
    check("albumentations", strategy)


@pytest.mark.slow
@pytest.mark.usefixtures("_torchvision")
def test_torchvision(check: Callable[[str, str], None]) -> None:
    """In threads: worker processes would lack what this file has declared, if it had to."""
    check("torchvision", "threads")
