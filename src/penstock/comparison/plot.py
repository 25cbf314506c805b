"""A comparison as a picture: the wall times on the left, what the workers did meanwhile on the right.

::

    workload, rows, runs; machine
                wall time                  what the workers did
      asyncio   │█████┼┤ 2.31 s            │▨▆▆▇▇▇▆▆▇
      threads   │█████┼─┤ 2.60 s           │▇▆▇▇▇▆▆▇▇▆
      processes │████████//█ 48.2 s        │▨▂▁▂▁▂▁▂▁▂▁▂▁▂//▂ 48.2 s
                └──────────── seconds      └────────────────── seconds
                     ▇ in the work   ▨ before the first result …

Both sides have one row for each entry and the same scale of seconds. It ends where the reader would lose the quick ones
beside a very slow one: see `_limit`. What goes on beyond it is cut, says so, and tells its length.

matplotlib is the extra ``plot`` and loads only when a plot is asked for. Its objects are used directly: pyplot would
choose a window system, and keep figures.
"""

from __future__ import annotations

import io
import itertools
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.comparison.results import Comparison, Entry
from penstock.comparison.text import decimals, machine_line, title_line, why_not_measured
from penstock.errors import ConfigError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_plot", "write_plot"]

SUFFIXES = (".svg", ".png")

ACTIVITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "decoding": ("in the work", {"facecolor": "#009E73"}),
    "handover": ("on hand-over", {"facecolor": "#E69F00"}),
    "output": ("held up by the output", {"facecolor": "#0072B2"}),
    "waiting": ("waiting for downloads", {"facecolor": "#DDDDDD"}),
    "starting": ("before the first result", {"facecolor": "white", "edgecolor": "#999999", "hatch": "/////"}),
}
"""The fields of `Shares` from the bottom up: name in the legend, and looks. The colours are Okabe and Ito's, which can be
told apart with any kind of colour vision."""

BEST, OTHER, INK = "#6F93A6", "#C9D2D6", "#263238"
"""Bars of the best and its equals, bars of the others, and lines and text."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib, so that a picture is the same everywhere
    "font.size": 10,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,  # inches
    "figure.constrained_layout.h_pad": 0.1,
    "text.color": INK,
    "text.parse_math": False,  # a name with $ in it is a name
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xaxis.labellocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read out
    "svg.hashsalt": "penstock",  # ids do not change from one time to the next
    "savefig.dpi": 150,
}

LONGEST = 8
"""The scale ends at so many times the best wall time, so that the best has an eighth of the width. Arbitrary."""

USUAL = 2
"""But not before so many times the median entry, so that what is cut is an exception. Arbitrary."""

BAR, STRIP = 0.56, 0.68
"""Heights, in rows."""

GAP = 0.025
"""Between a bar and its text, in widths of the scale."""

WALL_LABEL = """\
seconds, median; line: from the fastest to the slowest run
dark: the best, and what cannot be told apart from it"""

STRIP_LABEL = "seconds since the start; the run of median wall time"


def check_plot(path: Path) -> None:
    """See to it, before anything slow is begun, that a plot can be made and put there.

    Raises:
        ConfigError: the ending is not one of ours, or the folder does not exist.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--plot {path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: {path.parent} is no folder; make it first")
    if path.is_dir():
        raise ConfigError(f"--plot {path}: this is a folder; expected the name of a file")
    try:
        import matplotlib.figure  # noqa: F401, PLC0415 - the extra `plot`; only whether it can be had is asked here
    except ImportError as error:
        raise MissingExtraError("--plot needs matplotlib: pip install 'penstock[plot]'") from error


def write_plot(comparison: Comparison, path: Path) -> None:
    """Draw the comparison into a file; the same comparison gives the same bytes.

    Args:
        comparison: with at least one entry.
        path: ends in ``.svg`` or ``.png``; a file that is there is replaced.

    Raises:
        OutputError: the file cannot be written.
    """
    picture = _picture(comparison, path.suffix.lower().removeprefix("."))
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _picture(comparison: Comparison, kind: str) -> bytes:
    import matplotlib.style  # noqa: PLC0415 - the extra `plot`

    file = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        # A name in another script: an SVG shows it all the same, a PNG has boxes for its letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        _figure(comparison).savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def _figure(comparison: Comparison) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - the extra `plot`

    entries, limit = comparison.entries, _limit(comparison.ranking)
    figure = Figure(figsize=(12, 2.4 + 0.5 * len(entries)))
    bars, strips = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.3))
    for row, entry in enumerate(entries):
        if entry.measured:
            _draw_bar(bars, row, entry, limit, comparison.ranking[0])
            _draw_strip(strips, row, entry, limit)
        else:
            reason = textwrap.fill(why_not_measured(entry), 75, max_lines=2, placeholder=" …")
            _write(bars, 0, row, "not measured", style="italic")
            _write(strips, 0, row, reason, style="italic", fontsize=9)
    _describe(figure, comparison)
    _finish(bars, limit, "wall time", WALL_LABEL)
    _finish(strips, limit, "what the workers did", STRIP_LABEL)
    bars.set_yticks(range(len(entries)), [entry.name for entry in entries])
    bars.set_ylim(len(entries) - 0.4, -0.6)
    return figure


def _limit(ranking: Sequence[Entry]) -> float:
    """Seconds at which the scale ends: with the slowest trial, unless that would leave no room to the quick ones."""
    if not ranking:
        return 1.0
    best, median = ranking[0].wall, ranking[(len(ranking) - 1) // 2].wall
    return min(max(LONGEST * best, USUAL * median), max(entry.slowest for entry in ranking))


def _draw_bar(axes: Axes, row: int, entry: Entry, limit: float, best: Entry) -> None:
    equal = entry.ties_with(best)
    axes.barh(row, min(entry.wall, limit), BAR, color=BEST if equal else OTHER)
    text = f"{decimals(entry.wall)} s"
    if entry.wall > limit:
        _cut(axes, row, limit)
        text += f" = {entry.wall / best.wall:.0f} × the best"
    else:
        _draw_whisker(axes, row, entry, limit)
        if entry.slowest > limit:
            text += f" (slowest: {decimals(entry.slowest)} s)"
    _write(axes, min(entry.slowest, limit) + GAP * limit, row, text, fontweight="bold" if equal else "normal")


def _draw_whisker(axes: Axes, row: int, entry: Entry, limit: float) -> None:
    """From the fastest to the slowest trial; an arrow where the slowest is off the scale."""
    end = min(entry.slowest, limit)
    looks: dict[str, Any] = {"color": INK, "linewidth": 1.3, "markersize": 9}
    axes.plot([entry.fastest, end], [row, row], **looks)
    axes.plot([entry.fastest], [row], marker="|", **looks)
    axes.plot([end], [row], marker="|" if entry.slowest <= limit else ">", **looks)


def _draw_strip(axes: Axes, row: int, entry: Entry, limit: float) -> None:
    """The slices of the run side by side, in each the shares one upon the other."""
    run = entry.median
    slices = [part for part in run.timeline if part.start < limit]
    edges = [*(part.start for part in slices), *(min(part.stop, limit) for part in slices[-1:])]
    below = [row + STRIP / 2] * len(edges)
    for name, (_, looks) in ACTIVITIES.items():
        shares = [getattr(part.shares, name) for part in (*slices, *slices[-1:])]
        above = [level - STRIP * share for level, share in zip(below, shares, strict=True)]
        # What is not there needs no polygon, which halves the file; a step ends where the next one begins.
        there = [share > 0 or before > 0 for before, share in itertools.pairwise([0.0, *shares])]
        axes.fill_between(edges, below, above, where=there, step="post", linewidth=0, **looks)
        below = above
    if run.wall > limit:
        _cut(axes, row, limit)
        _write(axes, (1 + GAP) * limit, row, f"{decimals(run.wall)} s")


def _cut(axes: Axes, row: int, limit: float) -> None:
    """Two white strokes across: here a piece is missing."""
    for place in (0.94, 0.96):
        ends = [(place - 0.01) * limit, (place + 0.01) * limit]
        axes.plot(ends, [row + STRIP / 2, row - STRIP / 2], color="white", linewidth=3)


def _write(axes: Axes, place: float, row: int, text: str, **looks: Any) -> None:
    axes.text(place, row, text, verticalalignment="center", **looks)


def _describe(figure: Figure, comparison: Comparison) -> None:
    """The title, and what the colours mean."""
    from matplotlib.patches import Patch  # noqa: PLC0415 - the extra `plot`

    title = "; ".join(filter(None, [title_line(comparison), machine_line(comparison.machine)]))
    figure.suptitle(textwrap.fill(title, 95), x=0.01, ha="left", fontsize=13, fontweight="bold")
    patches = [Patch(label=label, **({"edgecolor": "none"} | looks)) for label, looks in ACTIVITIES.values()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)


def _finish(axes: Axes, limit: float, title: str, label: str) -> None:
    """Titles, and a scale of seconds that ends where the longest bar does."""
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_xticks([tick for tick in axes.xaxis.get_major_locator().tick_values(0, limit) if 0 <= tick <= limit])
    axes.set_xlim(0, (1 + GAP) * limit)
    axes.spines["bottom"].set_bounds(0, limit)
    axes.grid(axis="x", color="#E5E5E5")
    axes.set_axisbelow(True)
