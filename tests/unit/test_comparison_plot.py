"""The plot of a comparison, as file and as picture."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from comparison.results import HICCUP, IMAGES, IO, comparison, entry, failed
from penstock.comparison.plot import ACTIVITIES, check_plot, write_plot
from penstock.comparison.results import Comparison
from penstock.errors import ConfigError, MissingExtraError, OutputError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def matplotlib(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Matplotlib, with its fonts open: it keeps the files for as long as the process lives."""
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    write_plot(comparison(entry("auto"), failed("threads")), tmp_path_factory.mktemp("first") / "plot.png")


def drawn(what: Comparison, folder: Path) -> ET.Element:
    path = folder / "plot.svg"
    write_plot(what, path)
    return ET.fromstring(path.read_bytes())


def texts(what: Comparison, folder: Path) -> list[str]:
    """All that is written in the plot."""
    return [text for element in drawn(what, folder).iter(f"{SVG}text") if (text := "".join(element.itertext()))]


@pytest.mark.usefixtures("matplotlib")
def test_svg_says_what_was_measured(tmp_path: Path) -> None:
    """Names, values, title and legend are text, and what was not measured says why."""
    shown = texts(IMAGES, tmp_path)
    assert "images: 1,000 rows, 3 runs of each; 2 cores, Python 3.11.7, GIL on" in shown
    assert {each.name for each in IMAGES.entries} <= set(shown)
    assert {label for label, _ in ACTIVITIES.values()} <= set(shown)
    assert {"2.31 s", "14.5 s", "not measured"} <= set(shown)
    assert "the workers cannot be started: no module named 'transforms'" in shown


@pytest.mark.usefixtures("matplotlib")
def test_best_is_on_top(tmp_path: Path) -> None:
    """The names stand in the order of the ranking."""
    names = [each.name for each in IMAGES.entries]
    heights = {
        "".join(element.itertext()): float(element.attrib["y"])
        for element in drawn(IMAGES, tmp_path).iter(f"{SVG}text")
        if "".join(element.itertext()) in names
    }
    assert sorted(names, key=heights.__getitem__) == names


@pytest.mark.usefixtures("matplotlib")
def test_every_activity_has_its_colour(tmp_path: Path) -> None:
    """The colours of the legend are those of the strips, and no two are the same."""
    drawn(IMAGES, tmp_path)
    picture = (tmp_path / "plot.svg").read_text(encoding="utf-8").lower()
    colours = [str(looks["facecolor"]).lower() for _, looks in ACTIVITIES.values()]
    assert len(set(colours)) == len(colours)
    for activity, colour in zip(ACTIVITIES, colours, strict=True):
        shown = [any(getattr(part.shares, activity) for part in entry.median.timeline) for entry in IMAGES.ranking]
        if colour.startswith("#"):
            assert picture.count(f"fill: {colour}") > sum(shown)  # and once in the legend


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize("name", ["plot.svg", "plot.PNG"])
def test_same_comparison_same_bytes(tmp_path: Path, name: str) -> None:
    """Nothing in a file changes from one time to the next; what was there is replaced."""
    path = tmp_path / name
    path.write_bytes(b"earlier" * 100_000)
    write_plot(IMAGES, path)
    first = path.read_bytes()
    write_plot(IMAGES, path)
    assert path.read_bytes() == first


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize(
    "what",
    [
        IMAGES,
        comparison(entry("auto", 0.2)),
        comparison(*(entry(f"strategy {number}", 500.0 + number) for number in range(8))),
        comparison(failed("auto"), failed("threads", "x" * 1000)),
    ],
    ids=["usual", "one", "eight", "none"],
)
def test_png(tmp_path: Path, what: Comparison) -> None:
    """A picture that is wider than high, grows with the entries, and is not empty."""
    write_plot(what, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width == 1800
        assert image.height == 360 + 75 * len(what.entries)
        colours = image.convert("RGB").getcolors(maxcolors=image.width * image.height)
    assert len(colours or []) > 10


def test_long_ones_leave_room_for_the_quick_ones(tmp_path: Path, matplotlib: None) -> None:
    """What takes 20 times as long is cut and tells its length; the scale ends at eight times the best."""
    shown = texts(IO, tmp_path)
    assert "25.8 s = 21 × the best" in shown
    assert "8" in shown
    assert "10" not in shown
    assert not any("×" in text for text in texts(comparison(entry("auto", 2.0), entry("threads", 15.0)), tmp_path))


def test_one_slow_run_does_not_hide_the_others(tmp_path: Path, matplotlib: None) -> None:
    """A run far off the scale is written beside the median."""
    assert "2.50 s (slowest: 52.5 s)" in texts(HICCUP, tmp_path)


def test_scale_is_not_cut_for_one_that_is_very_quick(tmp_path: Path, matplotlib: None) -> None:
    """Where most are slow, all of them are shown in full."""
    what = comparison(entry("auto", 1.0), *(entry(f"strategy {number}", 20.0 + number) for number in range(4)))
    assert not any("×" in text for text in texts(what, tmp_path))


def test_entry_without_a_timeline(tmp_path: Path, matplotlib: None) -> None:
    """It has its bar and an empty strip."""
    trial = dataclasses.replace(entry("auto", 1.25).trials[0], timeline=())
    assert "1.25 s" in texts(comparison(dataclasses.replace(entry("auto"), trials=(trial,))), tmp_path)


def test_text_from_outside_is_text(tmp_path: Path, matplotlib: None) -> None:
    """Formulas, markup, control characters and letters that the font lacks come out as text, without a warning."""
    what = comparison(entry("auto"), failed("threads", "</svg> $x^2$ \x1b[31m\nnext"), workload="復号 $\\frac{1}{2}$")
    shown = texts(what, tmp_path)
    assert "</svg> $x^2$ \N{REPLACEMENT CHARACTER}[31m next" in shown
    assert shown.count("復号 $\\frac{1}{2}$: 1,000 rows, 3 runs of each; 2 cores, Python 3.11.7, GIL on") == 1


def test_settings_of_matplotlib_stay_as_they_were(tmp_path: Path, matplotlib: None) -> None:
    """A plot leaves nothing behind in the caller's matplotlib, and takes nothing from it."""
    import matplotlib as mpl

    write_plot(IO, tmp_path / "first.svg")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        before = str(mpl.rcParams)
        write_plot(IO, tmp_path / "second.svg")
        assert str(mpl.rcParams) == before
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize("name", ["plot.svg", "plot.png", "PLOT.SVG"])
def test_check_of_a_good_name(tmp_path: Path, name: str) -> None:
    """Both formats, in any case, in a folder that is there; nothing is written yet."""
    check_plot(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["plot", "plot.pdf", ".svg", "plot.svg.gz"])
def test_check_of_a_bad_ending(tmp_path: Path, name: str) -> None:
    """The option, the value and what is allowed are named."""
    with pytest.raises(ConfigError, match=rf"--plot .*{name}: .*\.svg or \.png"):
        check_plot(tmp_path / name)


def test_check_of_the_folder(tmp_path: Path) -> None:
    """A folder that is missing, or is none, or a file's name that is a folder's, is found out at once."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.svg").mkdir()
    for name in ("missing/plot.svg", "file/plot.svg", "folder.svg"):
        with pytest.raises(ConfigError, match=rf"--plot .*{name}: .*folder"):
            check_plot(tmp_path / name)


def test_check_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that installs it is in the message."""
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'penstock\[plot\]'"):
        check_plot(tmp_path / "plot.svg")


def test_what_loads(tmp_path: Path, matplotlib: None) -> None:
    """Without a plot nothing of matplotlib; with one no pyplot, which would look for a screen."""
    code = (
        "import sys, pathlib, penstock.comparison.plot as plot\n"
        "before = 'matplotlib' in sys.modules\n"
        "from comparison.results import IO\n"
        "plot.write_plot(IO, pathlib.Path('plot.png'))\n"
        "print(before, 'matplotlib.pyplot' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert (ran.stdout, ran.stderr) == ("False False\n", "")


def test_plot_that_cannot_be_written(tmp_path: Path, matplotlib: None) -> None:
    """The path and the reason are named."""
    with pytest.raises(OutputError, match=r"missing/plot\.png: No such file or directory"):
        write_plot(IO, tmp_path / "missing" / "plot.png")
