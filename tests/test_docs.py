"""The documentation holds: it is current, its links lead somewhere, its commands and code fit the program."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib.util
import inspect
import pkgutil
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.build import build_work, worker_memory
from penstock.cli import app, given
from penstock.config import CompareConfig, RunConfig, StreamConfig, flag_of
from penstock.fetch.policy import dispatch, manners, optout, robots
from penstock.fetch.policy.answers import HEADERS, PROJECT_URL
from penstock.fetch.policy.deadlines import Limits
from penstock.image.work import NO_STEPS
from penstock.parts import parse_parts
from penstock.records import Reason, Retry
from penstock.runner import make_config
from penstock.sink.table import TableLayout

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
BY_HAND = [page for page in PAGES if page != DOCS / "reference/options.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OTHER_FLAGS = {"--help", "--check", "--web"}
"""Flags in the text that are not Penstock's."""
EXTRAS = {"penstock.ray": "ray", "penstock.dask": "dask"}
"""Modules that need a package of an extra, with its name."""
MODULES = {"http.client", "decode.decode", "encode.encode", "optout.reservation"}
"""Names in the text that only look like reasons."""


def read(*pages: Path) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", read(page))


def blocks(language: str) -> list[Any]:
    """Every block of code in this language, named by its page."""
    return [
        pytest.param(match[2], id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, match in enumerate(FENCE.finditer(read(page)))
        if match[1] == language
    ]


# ---- what is told


def test_generated_reference_is_current() -> None:
    """The tables of the reference are what the code says; if not, run docs/reference/generate.py."""
    assert runpy.run_path(str(DOCS / "reference/generate.py"))["main"](["--check"]) == 0


@pytest.mark.parametrize("name", [spec.name for spec in dataclasses.fields(RunConfig)])
def test_every_option_is_told_of(name: str) -> None:
    """Each option stands somewhere besides the generated table."""
    assert re.search(rf"{flag_of(name)}\b(?!-)", read(*BY_HAND))


@pytest.mark.parametrize("name", inspect.get_annotations(StreamConfig))
def test_every_option_of_a_stream_is_told_of(name: str) -> None:
    """Each option that streams alone have stands somewhere besides the generated table."""
    assert re.search(rf"\b{name}(=|`)", read(*BY_HAND))


def test_every_reason_and_phase_is_told_of() -> None:
    """Each reason is in the reference, each phase in the concept page."""
    reference, concept = read(DOCS / "reference/reasons.md"), read(DOCS / "concepts/failure-reasons.md")
    assert [reason for reason in Reason if f"`{reason.value}`" not in reference] == []
    assert {reason.phase for reason in Reason if f"`{reason.phase}`" not in concept} == set()


def first_cells(page: Path) -> set[str]:
    """What stands in backquotes in the first column of the page's tables."""
    cells = re.findall(r"^\| (`[^|]+) \|", read(page), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_phase_has_its_line() -> None:
    """The concept page says of each phase what is looked at."""
    assert {reason.phase for reason in Reason} - first_cells(DOCS / "concepts/failure-reasons.md") == set()


def test_every_trouble_of_this_machine_has_its_line() -> None:
    """The guide says for each local reason what a run does."""
    local = {reason.value for reason in Reason if reason.retry is Retry.LOCAL}
    assert local == {name for name in first_cells(DOCS / "guides/left-alone.md") if name.startswith("local.")}


def test_reasons_in_the_text_exist() -> None:
    """What the text calls by the name of a reason is one."""
    phases = "|".join({reason.phase for reason in Reason} - {"local", "image", "transform"})
    named = {name for page in PAGES for name in re.findall(rf"`((?:{phases})\.[a-z_]+)`", prose(page))}
    assert named - {reason.value for reason in Reason} - MODULES == set()


def test_numbers_of_the_manners_are_those_of_the_code() -> None:
    """Limits that people rely on, and that are no options, are told as they are."""
    text = " ".join(read(DOCS / "concepts/manners.md").split())
    seconds = {60: "a minute", 300: "five minutes", 900: "fifteen minutes", 24 * 3600: "24 hours", 30: "30 seconds"}
    times = (manners.REST, dispatch.PATIENCE, manners.LONGEST_REST, robots.LIFETIME, robots.LONGEST_DELAY)
    assert [seconds[int(time)] for time in times if seconds[int(time)] not in text] == []
    assert manners.DEAD == 5
    assert "five attempts in a row" in text
    assert f"| at first | {manners.LEAST} |" in text
    assert f"after every {manners.PATIENCE} successes" in text
    assert f"{optout.MAX_RULES:,} rules" in text
    assert f"{optout.MAX_PATTERNS:,} patterns" in text
    assert [word for word in (*optout.RESERVING, optout.AGENT, HEADERS["User-Agent"]) if word not in text] == []


def test_default_bound_of_a_worker_is_told() -> None:
    """The memory that an image may take by default stands where it is promised."""
    config = RunConfig()
    bound = worker_memory(config, build_work(config, NO_STEPS, as_array=False))
    assert bound is not None
    for page in (ROOT / "SECURITY.md", DOCS / "guides/run.md"):
        assert f"{bound / 1e9:.1f} GB" in read(page)


def test_silence_and_slowness_are_told() -> None:
    """The fixed limits of time are those of the code, wherever they stand."""
    limits = Limits.of(RunConfig())
    for page in (ROOT / "SECURITY.md", DOCS / "guides/run.md", DOCS / "concepts/flow-and-back-pressure.md"):
        text = " ".join(read(page).split())
        assert re.search(rf"{limits.idle:.0f} s (of silence|without a byte)", text), page
        assert re.search(rf"1 KiB/s,?( on average| averaged)? over {limits.window:.0f} s", text), page


def test_promises_are_a_step_away() -> None:
    """Both READMEs lead to what is promised, and to what a run bears."""
    for page in (ROOT / "README.md", ROOT / "README.zh-CN.md"):
        assert {"SECURITY.md", "docs/guides/left-alone.md", "docs/concepts/manners.md"} <= set(LINK.findall(read(page)))
    assert f"{PROJECT_URL}/security/advisories/new" in LINK.findall(read(ROOT / "SECURITY.md"))


def test_suites_to_run_by_hand_are_there() -> None:
    """Each file of tests that a page tells to run exists."""
    named = {name for page in PAGES for name in re.findall(r"\btests/[\w/]+\.(?:py|c)\b", read(page))}
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_every_column_is_told_of() -> None:
    """Each column of the shards' table is in the reference of files."""
    files = read(DOCS / "reference/files.md")
    assert [name for name in TableLayout(caption=True, parts=True).columns if f"`{name}`" not in files] == []


@pytest.mark.parametrize("name", penstock.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    """Whatever can be imported from penstock says what it is."""
    text = inspect.getdoc(getattr(penstock, name)) or ""
    assert len(text) > 20
    assert not text.startswith(f"{name}("), "the text that dataclasses make is none"


# ---- links


def anchors(page: Path) -> set[str]:
    """The fragments by which GitHub reaches the page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link has its file, and its heading if it names one."""
    broken = []
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_on_the_map() -> None:
    """Each page below docs can be reached from docs/index.md in one step."""
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in LINK.findall(read(DOCS / "index.md"))}
    assert {page for page in DOCS.rglob("*.md") if page.name != "index.md"} - linked == set()


# ---- commands


def commands(script: str) -> Iterator[list[str]]:
    """The arguments of each call of ``penstock`` in a block of shell."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word[0] not in ";|&<>":
                words.append(word)
                continue
            if words and Path(words[0]).name == "penstock":
                yield words[1:]
            words = []


def test_commands_are_found() -> None:
    """The search for commands sees through pipes, redirections and lists."""
    script = "cat a.gz | penstock run - --out 'x y' > log && .venv/bin/penstock demo  # a remark\nls penstock"
    assert list(commands(script)) == [["run", "-", "--out", "x y"], ["demo"]]
    assert sum(len(list(commands(block.values[0]))) for block in blocks("sh")) > 20


@pytest.mark.parametrize("script", blocks("sh"))
def test_commands_parse(script: str) -> None:
    """Each command line is one that Penstock accepts, down to the values of its options."""
    for arguments in commands(script):
        function, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        if function.__name__ == "run":
            # A file of parts is not here; the pages that tell of one have it as a block of its own, see below.
            names = {spec.name for spec in dataclasses.fields(RunConfig)} & bound.arguments.keys() - {"parts"}
            make_config(None, given({name: bound.arguments[name] for name in names}))


@pytest.mark.parametrize("text", blocks("toml"))
def test_files_of_parts_are_read(text: str) -> None:
    """Each block of TOML that holds tables names parts as ``--parts`` takes them; the others hold options."""
    values = tomllib.loads(text)
    if any(isinstance(value, dict) for value in values.values()):
        assert parse_parts(values.get("parts", values))
    else:
        make_config(None, {name.replace("-", "_"): value for name, value in values.items()})


def test_flags_in_the_text_exist() -> None:
    """A flag that the text names is one of Penstock's."""
    named = {flag for page in PAGES for flag in re.findall(r"`(?:penstock [\w …]*)?(--[a-z-]+)", prose(page))}
    known = {
        flag_of(name)
        for command in ("demo", "run", "compare", "report", "failures", "verify")
        for name in parameters(command)
    }
    assert named - known - OTHER_FLAGS == set()


def parameters(command: str) -> list[str]:
    function = app[command].default_command
    assert function is not None
    return list(inspect.signature(function).parameters)


# ---- code


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_fit_the_program(code: str) -> None:
    """Each block compiles, uses public names only, and gives them arguments that exist."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "penstock":
            assert node.attr in {*penstock.__all__, "ray", "dask"}
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("penstock."):
            module, _, name = ast.unparse(node.func).rpartition(".")
            given = [keyword.arg for keyword in node.keywords if keyword.arg]
            if module in EXTRAS and importlib.util.find_spec(EXTRAS[module]) is None:
                continue
            assert set(given) <= accepted(getattr(importlib.import_module(module), name))


def accepted(function: Any) -> set[str]:
    """Names of the arguments that a public function takes."""
    names = set(inspect.signature(function).parameters)
    configs: dict[Any, tuple[Any, ...]] = {
        penstock.run: (RunConfig,),
        penstock.stream: (StreamConfig,),
        penstock.compare: (RunConfig, CompareConfig),
    }
    if function.__module__ in EXTRAS:
        configs[function] = (StreamConfig,)
    return names.union(*(inspect.signature(config).parameters for config in configs.get(function, ())))


@pytest.mark.parametrize(
    "name", sorted(module.name for module in pkgutil.walk_packages(penstock.__path__, "penstock."))
)
def test_examples_in_docstrings(name: str) -> None:
    """What a docstring shows is what happens."""
    try:
        module = importlib.import_module(name)
    except penstock.MissingExtraError as missing:
        pytest.skip(str(missing))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
