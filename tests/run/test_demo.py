"""The demonstration, as the README starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from penstock.cli import main


@pytest.mark.slow
def test_demo_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All but two rows are written, with their reasons and a contact sheet; a second demo replaces the first."""
    out = tmp_path / "demo"
    assert main(["demo", "--count", "30", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "30 rows = 28 written + 2 failed + 0 skipped" in captured.out
    assert "http.not_found" in captured.out
    assert "image.truncated" in captured.out
    assert f"penstock failures {out}" in captured.err
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.size == (804, 404)  # 28 pictures: four rows of eight
    assert main(["demo", "--count", "12", "--out", str(out), "--strategy", "threads", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["written"], report["failed"], report["strategy"]) == (10, 2, "threads")


def test_demo_needs_three(capsys: pytest.CaptureFixture[str]) -> None:
    """Two URLs fail, so fewer than three show nothing."""
    assert main(["demo", "--count", "2"]) == 2
    assert "--count 2" in capsys.readouterr().err


def test_demo_takes_no_foreign_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with other files is refused, before any picture is made."""
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["demo", "--count", "3", "--out", str(tmp_path)]) == 4
    assert "notes.txt" in capsys.readouterr().err
