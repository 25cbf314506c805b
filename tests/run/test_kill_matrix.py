"""The kill matrix and the soak of `tests/soak`, short: so that they cannot rot."""

from __future__ import annotations

from pathlib import Path

import kill_matrix
import pytest

import soak
from penstock.testing.server import ImageServer


@pytest.mark.slow
@pytest.mark.timeout(400)  # two to five runs for each kill
def test_one_kill_of_each_kind(tmp_path: Path, image_server: ImageServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Struck once in each way, and given again, a run ends as if nothing had happened."""
    cases = [kill_matrix.Case.drawn(2, number) for number in range(len(kill_matrix.WAYS))]
    tallies = kill_matrix.play_all(kill_matrix.Matrix(image_server, tmp_path), cases)
    assert sum(tally.cases for tally in tallies.values()) == len(kill_matrix.WAYS)
    assert not sum(tally.failed for tally in tallies.values()), capsys.readouterr().err


def test_cases_do_not_depend_on_each_other() -> None:
    """Any case can be played again alone; together they strike in every way, equally often."""
    cases = [kill_matrix.Case.drawn(0, number) for number in range(200)]
    assert cases[77] == kill_matrix.Case.drawn(0, 77)
    assert {way.name: sum(case.way is way for case in cases) for way in kill_matrix.WAYS} == dict.fromkeys(
        (way.name for way in kill_matrix.WAYS), 25
    )


@pytest.mark.slow
def test_short_soak() -> None:
    """Two thousand rows, one in twenty with a fault: what comes out is what went in."""
    result = soak.soak(2_000, seed=3, interval=0.2)
    assert result["account"]["found"] == result["account"]["expected"]
    assert result["report"]["rows"] == 2_000
    assert soak.table(result)
