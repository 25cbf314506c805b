"""What people read of a comparison in a terminal."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from comparison.results import HICCUP, IMAGES, IO, JUDGEMENT, comparison, entry, failed
from penstock.comparison.results import Comparison
from penstock.comparison.text import render_comparison
from penstock.records import Reason
from penstock.report.failures import FailedRow, group_by_reason

LARGE = comparison(
    *(
        entry(name, 512.3 + place, 500.1, 540.2, rows=3_000_000, megabytes=128_000, cpu=64, start=100)
        for place, name in enumerate(("auto", "threads", "textbook processes"))
    )
)
"""As wide as figures get."""


def shown(what: Comparison, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(render_comparison(what), crop=False)
    return file.getvalue()


def words(what: Comparison) -> str:
    """The text without its line breaks."""
    return " ".join(shown(what).split())


def line_of(what: Comparison, start: str) -> str:
    return next(line.strip() for line in shown(what).splitlines() if line.startswith(start))


def bars(what: Comparison, width: int = 80) -> dict[str, str]:
    """The bar of each entry."""
    chart = shown(what, width).partition("wall time, from zero")[2].partition("\n\n")[0].splitlines()[1:]
    return {name.strip(): bar for name, bar in ((line[:18], line[18:]) for line in chart)}


@pytest.mark.parametrize("what", [IMAGES, IO, HICCUP, LARGE])
def test_comparison_at_80_columns(what: Comparison) -> None:
    """No line but the command is longer, and no figure is cut or folded."""
    assert what.judgement is not None
    lines = [line for line in shown(what).splitlines() if line != what.judgement.command]
    assert max(map(len, lines)) <= 80
    assert "…" not in shown(what)
    for each in what.ranking:
        assert len(line_of(what, f"{each.name} ").replace("= ", "").removeprefix(each.name).split()) == 8


def test_figures_of_an_entry() -> None:
    """Median and range, speed, first image, CPU, memory, workers, and the speed beside the best one's."""
    assert " ".join(line_of(IMAGES, "asyncio ").split()) == "asyncio 2.31 2.25–2.40 433 0.42 4.50 412 90% 1.00"
    assert " ".join(line_of(IMAGES, "processes ").split()) == "processes 3.92 3.80–4.11 255 0.61 4.70 455 48% 0.59"
    assert " ".join(line_of(LARGE, "auto ").split()) == "auto 512 500–540 5,856 100 10.9 128,000 90% 1.00"


def test_entry_without_a_first_image() -> None:
    """What is not known is a dash."""
    trial = dataclasses.replace(entry("auto").trials[0], first_image=None)
    assert line_of(comparison(dataclasses.replace(entry("auto"), trials=(trial,))), "auto ").split()[4] == "-"


def test_ties_are_marked_and_explained() -> None:
    """What cannot be told apart from the best has a mark; the best itself and the others have none."""
    for name, mark in (("asyncio", False), ("hybrid", True), ("threads", True), ("processes", False)):
        assert ("=" in line_of(IMAGES, f"{name} ")) is mark, name
    assert "= cannot be told apart from the best: the difference is within the two spreads" in words(IMAGES)
    assert "=" not in shown(IO).replace(IO.judgement.command if IO.judgement else "", "")


def test_entry_that_failed() -> None:
    """It is named with its reason, and has no figures and no bar."""
    assert "auto not measured: the workers cannot be started: no module named 'transforms'" in words(IMAGES)
    assert "auto" not in bars(IMAGES)


def test_entry_without_images() -> None:
    """Trials that gave no image are no measurement, even without an error."""
    trial = dataclasses.replace(entry("threads").trials[0], written=0)
    empty = dataclasses.replace(entry("threads"), trials=(trial,))
    assert "threads not measured: not one image came out" in words(comparison(entry("auto"), empty))


def test_bars_are_in_proportion() -> None:
    """Twice the time is twice the length, to an eighth of a character; the line reaches to the slowest run."""
    chart = bars(
        comparison(entry("textbook threads", 1.0), entry("textbook process", 2.0), entry("threads", 3.0, 4.0, 1.0))
    )
    widths = {
        name: bar.count("█") + ("▏▎▍▌▋▊▉".find(bar.strip("█─┤ s.0123456789")) + 1) / 8 for name, bar in chart.items()
    }
    assert widths["textbook process"] == pytest.approx(2 * widths["textbook threads"], abs=1 / 8)
    assert widths["threads"] == pytest.approx(3 * widths["textbook threads"], abs=1 / 8)
    line = chart["threads"].count("─") + chart["threads"].count("┤")
    assert widths["threads"] + line == pytest.approx(4 * widths["textbook threads"], abs=1)
    assert "─" not in chart["textbook threads"]
    assert chart["threads"].endswith("3.00 s")


@pytest.mark.parametrize("width", [60, 100, 200])
def test_width_of_the_terminal(width: int) -> None:
    """Bars are drawn in any terminal, and every one of them can be seen."""
    lines = [line for line in shown(IO, width).splitlines() if line != (IO.judgement and IO.judgement.command)]
    assert max(map(len, lines)) <= width
    assert sum(line.rstrip().endswith(" s") and any(c in line for c in "█▏▎▍▌▋▊▉") for line in lines) == 4


def test_words() -> None:
    """What bounds the workload, the evidence, the advice with its reason, the notes and the machine."""
    text = words(IMAGES)
    assert text.startswith("images: 1,000 rows, 3 runs of each")
    assert f"bound by {JUDGEMENT.bound.meaning}" in text
    for sentence in (*JUDGEMENT.evidence, *IMAGES.notes):
        assert f"- {sentence}" in text
    assert f"recommended asyncio: {JUDGEMENT.why}" in text
    assert text.endswith("machine 2 cores, Python 3.11.7, GIL on")
    assert "1 run of each" in words(comparison(entry("auto", 2.0), runs=1))


def test_command_is_one_line() -> None:
    """It can be copied as it is, however long."""
    assert len(JUDGEMENT.command) > 80
    assert JUDGEMENT.command in shown(IMAGES).splitlines()


def test_no_advice() -> None:
    """Where no strategy could be measured there is a table, and no command."""
    text = shown(comparison(entry("textbook threads"), failed("auto"), judgement=None))
    assert "textbook threads" in text
    assert "recommended" not in text


def test_nothing_measured() -> None:
    """No ranking and no bars: why each scheme failed, and why the rows did."""
    row = FailedRow("000000000", "http://a/b", "failed", Reason.HTTP_GONE.value, "HTTP 410", 410, 1, {})
    what = comparison(failed("auto"), failed("threads"), failures=tuple(group_by_reason([row])))
    text = words(what)
    for part in ("nothing could be measured", "auto not measured: the workers died at once", "http.gone", "http://a/b"):
        assert part in text
    assert "wall" not in text
    assert "recommended" not in text


def test_text_from_outside_cannot_speak_to_the_terminal() -> None:
    """Control characters and markup in names, failures and commands are shown, not obeyed; a long failure is cut."""
    evil = "[red]x[/red] :smile: \x1b[31m\x07"
    advice = dataclasses.replace(JUDGEMENT, command=f"penstock run '{evil}'", why=evil, evidence=(evil,))
    what = comparison(
        entry("auto"), failed("threads", f"{evil}\r\n" + "y" * 10_000), judgement=advice, workload=evil, notes=(evil,)
    )
    text = shown(what)
    assert set(text) - {"\n"} <= {character for character in text if character.isprintable()}
    assert text.count("[red]x[/red] :smile: \N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}") == 6
    assert text.count("y") < 400
