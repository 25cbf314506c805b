"""The documentation holds: it is current, its links lead somewhere, its commands and code fit the program."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.cli import app, given
from penstock.config import CompareConfig, RunConfig, flag_of
from penstock.records import Reason
from penstock.runner import make_config
from penstock.sink.table import TableLayout

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
BY_HAND = [page for page in PAGES if page != DOCS / "reference/options.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OTHER_FLAGS = {"--help", "--check"}
"""Flags in the text that are not Penstock's."""


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


def test_every_reason_and_phase_is_told_of() -> None:
    """Each reason is in the reference, each phase in the concept page."""
    reference, concept = read(DOCS / "reference/reasons.md"), read(DOCS / "concepts/failure-reasons.md")
    assert [reason for reason in Reason if f"`{reason.value}`" not in reference] == []
    assert {reason.phase for reason in Reason if f"`{reason.phase}`" not in concept} == set()


def test_every_column_is_told_of() -> None:
    """Each column of the shards' table is in the reference of files."""
    files = read(DOCS / "reference/files.md")
    assert [name for name in TableLayout(caption=True).columns if f"`{name}`" not in files] == []


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
            names = {spec.name for spec in dataclasses.fields(RunConfig)} & bound.arguments.keys()
            make_config(None, given({name: bound.arguments[name] for name in names}))


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
            assert node.attr in penstock.__all__
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("penstock."):
            given = [keyword.arg for keyword in node.keywords if keyword.arg]
            assert set(given) <= accepted(getattr(penstock, ast.unparse(node.func).removeprefix("penstock.")))


def accepted(function: Any) -> set[str]:
    """Names of the arguments that a public function takes."""
    names = set(inspect.signature(function).parameters)
    configs: dict[Any, tuple[Any, ...]] = {penstock.run: (RunConfig,), penstock.compare: (RunConfig, CompareConfig)}
    return names.union(*(inspect.signature(config).parameters for config in configs.get(function, ())))


@pytest.mark.parametrize(
    "name", sorted(module.name for module in pkgutil.walk_packages(penstock.__path__, "penstock."))
)
def test_examples_in_docstrings(name: str) -> None:
    """What a docstring shows is what happens."""
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0
