"""Runs that are stopped and killed at random moments, and started again: nothing may be lost, doubled or left behind.

    python tests/soak/kill_matrix.py --times 200 --seed 0

Each case draws a strategy, one lane or two, a format, and a kind of run (a new one, one that goes on after an earlier
kill, one with ``--retry-failed``); the ways to end it take turns. It is struck at a moment that is uniform over the time
that such a run takes undisturbed, start-up and last commits included. Then the same command is given again, until the
run has finished. What has to hold after the strike and at the end is in `play`, `strike` and `finish`.

A case that fails says how to see it again, and its folder is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from invariants import assert_finished, assert_journal_is_true, digests
from processes import command_of, marked, tree_of

from penstock.testing.leaks import no_leaks
from penstock.testing.server import ImageServer

ROWS = 120
EVERY = 10
"""Of so many rows one is a 404 and, where it is to be retried, another one a 503 at the first time of asking."""
OPTIONS = [
    "--allow-network",
    "127.0.0.0/8",
    "--size",
    "32",
    "--connections",
    "4",
    "--per-host",
    "4",
    "--workers",
    "2",
    "--shard-size",
    "20",
    "--retries",
    "0",
]
MARK = "PENSTOCK_KILL_MATRIX"
"""Variable by which a run's processes are known, whoever is their parent."""
PATIENCE = 60.0
"""Seconds after which a run of one or two counts as hung."""
AT_ONCE = 5.0
"""Seconds within which the second Ctrl-C, and the death of orphans, must have worked, on a busy machine."""

Kind = Literal["new", "resumed", "retried"]
Strike = Callable[[subprocess.Popen[bytes], random.Random], bool]
"""Does it; False if there was nothing left to strike."""


def _to_parent(number: signal.Signals) -> Strike:
    def strike(process: subprocess.Popen[bytes], _: random.Random) -> bool:
        alive = process.poll() is None
        process.send_signal(number)
        return alive

    return strike


def _to_group(number: signal.Signals) -> Strike:
    """As a terminal does: to the parent and all its children at once."""

    def strike(process: subprocess.Popen[bytes], _: random.Random) -> bool:
        if process.poll() is not None:
            return False
        os.killpg(process.pid, number)
        return True

    return strike


def _twice(process: subprocess.Popen[bytes], chance: random.Random) -> bool:
    press = _to_group(signal.SIGINT)
    if not press(process, chance):
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0.1, 0.3))  # sooner, the system makes one signal of the two
        return False
    press(process, chance)
    clock = time.monotonic()
    process.wait(PATIENCE)
    took = time.monotonic() - clock
    assert took < AT_ONCE, f"{took:.1f} s from the second Ctrl-C to the end"
    return True


def _to_one(module: str) -> Strike:
    """SIGKILL of a child that runs `module`, as soon as there is one."""

    def strike(process: subprocess.Popen[bytes], chance: random.Random) -> bool:
        while process.poll() is None:
            children = [pid for pid in tree_of(process.pid) if f"from {module} import" in command_of(pid)]
            if children:
                os.kill(chance.choice(children), signal.SIGKILL)
                return True
            time.sleep(0.005)  # polls a condition
        return False

    return strike


@dataclass(frozen=True)
class Way:
    """One way to end a run."""

    name: str
    strike: Strike
    exits: tuple[int, ...]
    """With what a run ends that has begun, and not finished."""
    raw: int | None = None
    """With what it may end, besides, before it has begun or when it has finished: the signal itself."""


WAYS = (
    Way("SIGINT", _to_group(signal.SIGINT), (130,), -signal.SIGINT),
    Way("SIGINT twice", _twice, (130,), -signal.SIGINT),
    Way("SIGTERM", _to_parent(signal.SIGTERM), (143,), -signal.SIGTERM),
    Way("SIGHUP", _to_group(signal.SIGHUP), (129,), -signal.SIGHUP),
    Way("SIGKILL parent", _to_parent(signal.SIGKILL), (-signal.SIGKILL,)),
    Way("SIGKILL worker", _to_one("penstock.crew.worker"), (0,)),
    Way("SIGKILL lane", _to_one("penstock.engines.lane"), (0,)),
    Way("SIGKILL all", _to_group(signal.SIGKILL), (-signal.SIGKILL,)),
)
KILL = WAYS[4]


@dataclass(frozen=True)
class Case:
    """What is drawn for one kill."""

    seed: int
    number: int
    way: Way
    strategy: str
    lanes: int
    format: str
    kind: Kind

    @classmethod
    def drawn(cls, seed: int, number: int) -> Case:
        """The case of this number: it does not depend on those before it."""
        chance = random.Random(f"{seed} {number}")
        way = WAYS[number % len(WAYS)]
        strategies = ["asyncio", "processes", "hybrid", "threads"]
        kinds: list[Kind] = ["new", "resumed", "retried"]
        if way.name == "SIGKILL worker":
            strategies.remove("threads")  # which has none
        if way.name == "SIGKILL lane":
            kinds.remove("retried")  # which takes a single one, in the parent
        return cls(
            seed,
            number,
            way,
            chance.choice(strategies),
            2 if way.name == "SIGKILL lane" else chance.choice((1, 2)),
            chance.choice(("webdataset", "parquet", "files", "arrays")),
            chance.choice(kinds),
        )

    def chance(self) -> random.Random:
        """For the moments."""
        return random.Random(f"moments {self.seed} {self.number}")

    @property
    def written(self) -> int:
        """Rows that have an image in the end."""
        return ROWS - ROWS // EVERY

    def __str__(self) -> str:
        return f"{self.way.name}, {self.strategy}, lanes {self.lanes}, {self.format}, {self.kind}"


@dataclass
class Tally:
    """What became of the cases of one way."""

    cases: int = 0
    struck: int = 0
    failed: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    code: int
    output: str
    errors: str


class Running:
    """A run in a session of its own, all of whose processes are marked."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        self._output, self._errors = folder / "stdout", folder / "stderr"
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, MARK: self.mark},
                start_new_session=True,
            )

    def wait(self) -> Ended:
        """Wait for its end, and for that of all its processes."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hung: not at its end after {PATIENCE:.0f} s") from None
        deadline = time.monotonic() + AT_ONCE
        while orphans := marked(self.mark):
            assert time.monotonic() < deadline, f"orphans: {[command_of(pid)[:120] for pid in orphans]}"
            time.sleep(0.005)  # polls a condition
        return Ended(code, self._output.read_text(), self._errors.read_text())

    def end(self) -> None:
        """Kill what is left."""
        for pid in {self.process.pid, *marked(self.mark)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Matrix:
    """Plays cases against one image server, in one folder.

    Args:
        server: with a latency, so that the runs take their time.
        folder: for lists and outputs.
    """

    def __init__(self, server: ImageServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._spans: dict[tuple[str, int, bool], float] = {}
        self._digests: dict[str, dict[str, str]] = {}
        self._templates: dict[str, Path] = {}
        self._plain = self._write_list("plain", {})

    def play(self, case: Case) -> tuple[bool, int]:
        """Strike one run and finish it; whether the strike found it alive, and the code it ended with.

        Raises:
            AssertionError: something did not hold; the case's folder is still there.
        """
        span = self._span(case)
        place = self._place(case)
        chance = case.chance()
        with no_leaks():
            if case.kind == "resumed":
                self._strike(dataclasses.replace(case, way=KILL), place, chance, span)
            struck, code = self._strike(case, place, chance, span)
            self._finish(case, place)
        shutil.rmtree(place)
        return struck, code

    def place_of(self, case: Case) -> Path:
        """The folder of a case; it stays when the case fails."""
        return self._folder / f"{case.seed}-{case.number:04d}"

    def command(self, case: Case, place: Path) -> list[str]:
        """What is run, again and again."""
        listing = self._template(case.format).with_suffix(".txt") if case.kind == "retried" else self._plain
        more = ["--retry-failed"] if case.kind == "retried" else []
        command = self._command(listing, place / "out", case.format)
        return [*command, *more, "--strategy", case.strategy, "--lanes", str(case.lanes)]

    def _command(self, listing: Path, out: Path, form: str) -> list[str]:
        run = [sys.executable, "-m", "penstock", "run", str(listing), "--out", str(out), "--json"]
        return [*run, *OPTIONS, "--format", form]

    def _place(self, case: Case, name: str | None = None) -> Path:
        """A new folder for a case; that of a retry holds a finished run already."""
        place = self._folder / name if name else self.place_of(case)
        place.mkdir()
        if case.kind == "retried":
            shutil.copytree(self._template(case.format), place / "out")
        return place

    def _strike(self, case: Case, place: Path, chance: random.Random, span: float) -> tuple[bool, int]:
        """Run until the moment has come, and end it; look at what it leaves."""
        out = place / "out"
        before = _report(out)
        with self._running(case, place) as running:
            time.sleep(chance.uniform(0, span))  # the moment that was drawn
            struck = case.way.strike(running.process, chance)
            ended = running.wait()
        finished = _report(out).get("finished", False) and (case.kind != "retried" or _report(out) != before)
        begun = _owner(out) == running.process.pid
        allowed = set(case.way.exits) if struck and begun else {0, *case.way.exits}
        if case.way.raw is not None and (finished or not begun):
            allowed.add(case.way.raw)
        if finished:
            allowed.add(0)
        if case.way.raw == -signal.SIGINT and not begun and "Could not import runpy module" in ended.errors:
            allowed.add(1)  # Python itself was interrupted, before it came to our code
        assert ended.code in allowed, f"exit code {ended.code}, expected one of {allowed}: {ended.errors[-2000:]}"
        assert not begun or not ended.errors, f"it complained: {ended.errors[-2000:]}"
        assert_journal_is_true(out)
        return struck, ended.code

    def _finish(self, case: Case, place: Path) -> None:
        """The same command again; then all must be as if nothing had happened."""
        out = place / "out"
        with self._running(case, place) as running:
            ended = running.wait()
        assert ended.code == 0, f"exit code {ended.code} of the last run: {ended.errors[-2000:]}"
        report = json.loads(ended.output)
        account = {name: report[name] for name in ("rows", "written", "failed", "skipped", "finished")}
        assert account == {
            "rows": ROWS,
            "written": case.written,
            "failed": ROWS - case.written,
            "skipped": 0,
            "finished": True,
        }, account
        assert report["reasons"] == {"http.not_found": ROWS - case.written}, report["reasons"]
        assert_finished(out, rows=ROWS, written=case.written)
        expected = digests(self._template(case.format)) if case.kind == "retried" else self._digests[case.format]
        found = digests(out)
        if case.kind == "retried":  # the shards of the retries depend on which rows had been retried before
            found = {name: found.get(name, "") for name in expected}
        assert found == expected, f"other bytes than undisturbed: {sorted(set(found.items()) ^ set(expected.items()))}"

    def _span(self, case: Case) -> float:
        """Seconds that such a run takes undisturbed; the first of a format makes the bytes to compare with."""
        kind = (case.strategy, case.lanes, case.kind == "retried")
        fresh = dataclasses.replace(case, kind="retried" if case.kind == "retried" else "new")
        if kind not in self._spans or (fresh.kind == "new" and case.format not in self._digests):
            place = self._place(fresh, f"undisturbed-{uuid.uuid4().hex[:8]}")
            clock = time.monotonic()
            with self._running(fresh, place) as running:
                assert running.wait().code == 0
            self._spans[kind] = time.monotonic() - clock
            if fresh.kind == "new":  # which strategy made the first of a format makes no difference
                found = digests(place / "out")
                assert found == self._digests.setdefault(case.format, found)
            shutil.rmtree(place)
        return self._spans[kind]

    def _template(self, form: str) -> Path:
        """A finished run, some of whose rows failed and will not fail again. Beside it, its list."""
        if form not in self._templates:
            template = self._folder / f"template-{form}"
            query = f"?id={uuid.uuid4().hex[:8]}"
            names = self._server.pictures
            flaky = {
                index: f"{self._server.url}/flaky/1/{names[index % len(names)]}{query}{index}"
                for index in range(EVERY // 2, ROWS, EVERY)
            }
            listing = self._write_list(template.name, flaky)
            subprocess.run(self._command(listing, template, form), check=True, capture_output=True)
            self._templates[form] = template
        return self._templates[form]

    def _write_list(self, name: str, others: dict[int, str]) -> Path:
        urls = self._server.image_urls(ROWS)
        urls[::EVERY] = [f"{self._server.url}/status/404?i={index}" for index in range(0, ROWS, EVERY)]
        path = self._folder / f"{name}.txt"
        path.write_text("".join(f"{others.get(index, url)}\n" for index, url in enumerate(urls)))
        return path

    @contextlib.contextmanager
    def _running(self, case: Case, place: Path) -> Iterator[Running]:
        running = Running(self.command(case, place), place)
        try:
            yield running
        finally:
            running.end()


def _report(out: Path) -> dict[str, Any]:
    path = out / "report.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return report


def _owner(out: Path) -> int | None:
    """The process that took the folder last: a run that has come so far has its signal handlers."""
    lock = out / ".penstock/lock"
    text = lock.read_text().strip() if lock.exists() else ""
    return int(text) if text else None


def play_all(matrix: Matrix, cases: list[Case]) -> dict[str, Tally]:
    """Every case; those that fail are told on standard error and counted."""
    tallies = {way.name: Tally() for way in WAYS}
    for case in cases:
        tally = tallies[case.way.name]
        tally.cases += 1
        clock = time.monotonic()
        try:
            struck, code = matrix.play(case)
        except AssertionError as error:
            tally.failed += 1
            place = matrix.place_of(case)
            sys.stderr.write(
                f"case {case.number} failed: {case}\n  {error}\n  its folder: {place}\n"
                f"  its command: {shlex.join(matrix.command(case, place))}\n"
                f"  again: python tests/soak/kill_matrix.py --seed {case.seed} --only {case.number}\n"
            )
        else:
            tally.struck += struck
            tally.codes[code] += 1
        tally.seconds += time.monotonic() - clock
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """For people, in Markdown."""
    lines = [
        "| struck by | cases | found it alive | exit codes of the struck run | seconds a case | failed |",
        "|---|---|---|---|---|---|",
    ]
    for name, tally in tallies.items():
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(tally.codes.items()))
        seconds = tally.seconds / max(tally.cases, 1)
        lines.append(f"| {name} | {tally.cases} | {tally.struck} | {codes} | {seconds:.1f} | {tally.failed} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--only", type=int, help="play the case of this number alone")
    options = parser.parse_args()
    numbers = range(options.times) if options.only is None else [options.only]
    cases = [Case.drawn(options.seed, number) for number in numbers]
    # Under nohup, or in the background of a shell, the runs would inherit that signals are ignored; handlers of ours become
    # the default in them.
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="penstock-kills-"))
    with ImageServer(count=20, mean_bytes=4_000, latency=0.02) as server:
        tallies = play_all(Matrix(server, folder), cases)
    sys.stdout.write(table(tallies) + "\n")
    failed = sum(tally.failed for tally in tallies.values())
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
