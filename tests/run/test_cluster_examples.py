"""The examples for Ray and Dask run as they are, each as a user would start it; skipped where a package is missing."""

from __future__ import annotations

import re

import pytest

from programs import losses, output_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_ray_train_learns_from_urls(require_torch: object) -> None:
    """Two workers share 598 images, 299 each, so 18 whole batches; guessing would cost ln 12 = 2.48."""
    pytest.importorskip("ray.train")
    output = output_of("ray_train.py", RAY_USAGE_STATS_ENABLED="0")
    first, second = losses(output)
    assert first < 2.48
    assert second < first / 2
    assert output.count("over 18 batches of the first worker") == 2


def test_ray_tune_shares_the_shards_of_one_download(require_torch: object) -> None:
    """The server is gone when the first of four trials begins; the one that is called the best is."""
    pytest.importorskip("ray.tune")
    output = output_of("ray_tune.py", RAY_USAGE_STATS_ENABLED="0")
    assert "598 images in " in output
    assert "2 failures {'http.not_found': 1, 'image.truncated': 1}" in output
    trials = [float(accuracy) for accuracy in re.findall(r"^rate .*: accuracy (\S+)$", output, re.MULTILINE)]
    best = re.findall(r"^best: .*: accuracy (\S+)$", output, re.MULTILINE)
    assert len(trials) == 4
    assert len(set(trials)) > 1
    assert [max(trials)] == [float(accuracy) for accuracy in best]
    assert max(trials) > 0.9


def test_dask_gradients_are_those_of_one_process() -> None:
    """Averaged over disjoint lots on two workers, to 1e-5; and they lead downhill."""
    pytest.importorskip("distributed")
    output = output_of("dask_gradients.py")
    steps = re.findall(r"mean loss (\S+) over 8 lots; one process differs by (\S+)$", output, re.MULTILINE)
    assert len(steps) == 5
    assert max(float(difference) for _, difference in steps) < 1e-5
    descent = [float(loss) for loss, _ in steps]
    assert descent == sorted(descent, reverse=True)
    assert descent[-1] < descent[0] - 0.1
