"""Fill the generated tables of the reference pages from the code that they describe.

    python docs/reference/generate.py            rewrite the tables
    python docs/reference/generate.py --check    change nothing; exit with 1 if a table is stale

A page is written by hand but for its blocks, each between two comments::

    <!-- generated: reasons -->
    …
    <!-- end of reasons -->
"""

# ruff: noqa: INP001 - a script, not a module of a package

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from cyclopts import Parameter

from penstock import cli, errors
from penstock.config import (
    CompareConfig,
    FetchConfig,
    FlowConfig,
    ImageConfig,
    OutputConfig,
    RunConfig,
    SourceConfig,
    StreamConfig,
    flag_of,
)
from penstock.ledger import IDENTITY
from penstock.records import Reason, Retry, ShardReport
from penstock.report.report import Report

HERE = Path(__file__).parent

BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(\n<!-- end of \2 -->)", re.DOTALL)

PARTS = {
    "source": SourceConfig,
    "image": ImageConfig,
    "fetch": FetchConfig,
    "flow": FlowConfig,
    "output": OutputConfig,
    "run": RunConfig,
}
"""Configs by block: each has a table of the fields that it adds to the configs it is made of."""

AGAIN = {
    Retry.NEVER: "no",
    Retry.ONCE: "once",
    Retry.BACKOFF: "yes",
    Retry.HOST: "yes, after a pause for the whole host",
    Retry.LATER: "by a later run",
    Retry.LOCAL: "not counted: the run pauses or stops, and no row ends so",
}

OPTIONS_OF: dict[Callable[..., Any], tuple[type[Any], ...]] = {
    cli.run: (RunConfig,),
    cli.compare: (CompareConfig, RunConfig),
}
"""Config classes whose fields are options of a command: they stand in tables of their own."""

COMMANDS = (cli.demo, cli.run, cli.compare, cli.report, cli.failures, cli.verify)


def table(head: Sequence[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# ---- options


def options(config: type[Any], of: type[Any] = RunConfig) -> str:
    """The fields that a config class adds, as options of `of`, with their flags."""
    rows = [
        [f"`{flag_of(name)}`" + (" •" if of is RunConfig and name in IDENTITY else ""), *cells]
        for name, cells in described(config, of)
    ]
    return table(["flag", "in Python", "values", "default", "meaning"], rows)


def stream_options() -> str:
    """The fields that `StreamConfig` adds: they have no flags."""
    rows = [cells for _, cells in described(StreamConfig, StreamConfig)]
    return table(["in Python", "values", "default", "meaning"], rows)


def described(config: type[Any], of: type[Any]) -> Iterator[tuple[str, list[str]]]:
    """Each field that `config` adds: its name; and as `of` has it, name, values, default and meaning for a table."""
    hints = typing.get_type_hints(of)
    own = inspect.get_annotations(config)
    for spec in dataclasses.fields(of):
        if spec.name in own:
            default = default_shown(spec.metadata["shown"] or spec.default)
            yield spec.name, [f"`{spec.name}`", values_of(spec, hints[spec.name]), default, spec.metadata["help"]]


def values_of(spec: dataclasses.Field[Any], hint: Any) -> str:
    """What may be given."""
    kind = next((part for part in get_args(hint) if part is not NoneType), hint) if NoneType in get_args(hint) else hint
    if spec.metadata["metavar"]:
        return str(spec.metadata["metavar"])
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "on or off"
    low, high = spec.metadata["at_least"], spec.metadata["at_most"]
    number = "whole number" if kind is int else "number"
    return f"{number}, {low} to {high}" if high is not None else f"{number}, at least {low}"


def default_shown(value: object) -> str:
    """A default, as one would write it."""
    if value is None or value == ():
        return "none"
    return "off" if value is False else f"`{value}`"


def commands() -> str:
    """What the commands take besides the fields of `RunConfig`."""
    return "\n\n".join(command(function) for function in COMMANDS)


def command(function: Callable[..., Any]) -> str:
    """One command: its first line, and a table of its arguments."""
    known = {spec.name for config in OPTIONS_OF.get(function, ()) for spec in dataclasses.fields(config)}
    signature = inspect.signature(function, eval_str=True)
    rows = [argument(parameter) for parameter in signature.parameters.values() if parameter.name not in known]
    title = (inspect.getdoc(function) or "").partition("\n")[0]
    return f"### penstock {function.__name__}\n\n{title}\n\n{table(['argument', 'default', 'meaning'], rows)}"


def argument(parameter: inspect.Parameter) -> list[str]:
    """One argument of a command."""
    positional = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
    name = parameter.name.upper() if positional else flag_of(parameter.name)
    meaning = "a run's output folder"  # the one argument whose help stands in a docstring
    if get_origin(parameter.annotation) is Annotated:
        meaning = next(extra.help or "" for extra in get_args(parameter.annotation) if isinstance(extra, Parameter))
    default = "required" if parameter.default is parameter.empty else default_shown(parameter.default)
    return [f"`{name}`", default, meaning]


# ---- reasons, errors, reports


def reasons() -> str:
    """Every reason, in its order."""
    rows = [[f"`{reason.value}`", reason.meaning, AGAIN[reason.retry]] for reason in Reason]
    return table(["reason", "meaning", "tried again?"], rows)


def error_table() -> str:
    """Every exception that leaves Penstock."""
    kinds = [getattr(errors, name) for name in errors.__all__ if name != "ItemError"]
    kinds.sort(key=lambda kind: (kind is not errors.PenstockError, kind.exit_code, kind.__name__))
    rows = [
        [f"`{kind.__name__}`", bases(kind), str(kind.exit_code), (inspect.getdoc(kind) or "").replace("``", "`")]
        for kind in kinds
    ]
    return table(["exception", "is also a", "exit code", "meaning"], rows)


def bases(kind: type) -> str:
    """The built-in exception that an older `except` clause may look for."""
    return ", ".join(f"`{base.__name__}`" for base in kind.__bases__ if base in (ValueError, ImportError))


def fields(kind: type) -> str:
    """The fields of a dataclass with what the text below each says."""
    rows = [[f"`{name}`", f"`{hint}`", meaning] for name, hint, meaning in documented_fields(kind)]
    return table(["field", "type", "meaning"], rows)


def documented_fields(kind: type) -> Iterator[tuple[str, str, str]]:
    """Name, annotation and description of each field, from the source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, ast.unparse(statement.annotation), text_of(following)


def text_of(statement: ast.stmt | None) -> str:
    """The text that a statement consists of; empty if it does something."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split()).replace("``", "`")
    return ""


# ---- pages

BLOCKS: dict[str, Callable[[], str]] = {
    **{f"options-{name}": partial(options, config) for name, config in PARTS.items()},
    "options-stream": stream_options,
    "options-compare": lambda: options(CompareConfig, CompareConfig),
    "commands": commands,
    "reasons": reasons,
    "errors": error_table,
    "report": partial(fields, Report),
    "shard-report": partial(fields, ShardReport),
}


def filled(page: str) -> str:
    """The page with the content of its blocks made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{BLOCKS[block[2]]()}\n{block[3]}", page)


def main(arguments: Sequence[str]) -> int:
    """Rewrite the stale pages, or with ``--check`` name them."""
    stale = [path for path in sorted(HERE.glob("*.md")) if filled(text := path.read_text(encoding="utf-8")) != text]
    for path in stale:
        if "--check" in arguments:
            sys.stderr.write(f"{path} is stale; run python {Path(__file__).name}\n")
        else:
            path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
