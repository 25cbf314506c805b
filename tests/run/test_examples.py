"""The examples run as they are, each as a user would start it; skipped without torch."""

from __future__ import annotations

import re

import pytest

from programs import losses, output_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("require_torch")]


def test_cnn_learns_from_urls_alone() -> None:
    """Two epochs; guessing would cost ln 12 = 2.48 all the time. The two broken URLs fail in each epoch."""
    output = output_of("train_cnn.py")
    first, second = losses(output)
    assert first < 2.48
    assert second < first / 3
    assert "1196 images, 4 failures {'http.not_found': 2, 'image.truncated': 2}" in output


def test_trainings_share_the_shards_of_one_download() -> None:
    """The server is gone when the first of four trainings begins; the one that is called the best is."""
    output = output_of("search.py")
    assert "2 failures {'http.not_found': 1, 'image.truncated': 1}" in output
    trials = [float(accuracy) for accuracy in re.findall(r"^rate .*: accuracy (\S+)$", output, re.MULTILINE)]
    best = re.findall(r"^best: .* with accuracy (\S+)$", output, re.MULTILINE)
    assert len(trials) == 4
    assert len(set(trials)) > 1
    assert [max(trials)] == [float(accuracy) for accuracy in best]
    assert max(trials) > 0.9


def test_images_find_their_texts() -> None:
    """Pairs from two columns of URLs: guessing would find 3 % of the texts and cost ln 32 = 3.47."""
    output = output_of("contrastive.py")
    costs = losses(output)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] / 3
    shares = [int(share) for share in re.findall(r", (\d+)% nearest to their own text$", output, re.MULTILINE)]
    assert shares[-1] > 90
    assert "2552 pairs, 8 failures {'http.not_found': 4, 'image.truncated': 4}" in output


def test_ranks_share_the_rows() -> None:
    """The same under torchrun: each of two ranks trains on its half, with as many batches as the other."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    output = output_of("train_ddp.py", launcher=launcher)
    first, second = losses(output)
    assert first < 2.48
    assert second < first / 2
    batches = [int(count) for count in re.findall(r"over (\d+) batches of all ranks", output)]
    assert batches == [38, 38], "600 rows on 2 ranks, 16 a batch, so 19 batches each"
