"""Imports go one way, downhill."""

from __future__ import annotations

import ast
from pathlib import Path

import penstock

ROOT = Path(penstock.__file__).parent

LAYERS = [
    ["records", "errors", "config", "parts", "location", "scheduling"],
    ["source", "fetch", "image", "sink", "report"],
    ["ledger"],
    ["crew"],
    ["flow"],
    ["folder"],
    ["duplicates", "loading", "reading", "verifying"],
    ["build"],
    ["engines", "lots"],
    ["runner", "streaming"],
    ["torch", "ray", "dask"],
    ["testing"],
    ["demo"],
    ["comparison"],
    ["cli"],
    ["__main__"],
]
"""From the bottom to the top; rooms of one layer do not import each other."""

BASICS = ["records", "errors", "config", "parts", "location"]
"""These may import each other: they are one layer in the picture, and in this order in the code."""

LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(module: str) -> str:
    return module.removeprefix("penstock.").partition(".")[0]


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports at run time, wherever in the file."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("penstock."):
            rooms.add(room_of(node.module or ""))
        elif isinstance(node, ast.Import):
            rooms |= {room_of(alias.name) for alias in node.names if alias.name.startswith("penstock.")}
    return rooms


def test_every_room_has_its_layer() -> None:
    """A new room must be placed."""
    rooms = {
        path.stem if path.is_file() else path.name for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()
    }
    assert rooms - {"__init__", "__pycache__"} == set(LEVEL)


def test_imports_go_downhill() -> None:
    """A room imports from rooms below its own only."""
    uphill = []
    for path in ROOT.rglob("*.py"):
        room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if room == "__init__":
            continue
        for other in imported_rooms(path) - {room}:
            down = LEVEL[other] < LEVEL[room] or {room, other} <= set(BASICS)
            if not down:
                uphill.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not uphill


def test_optional_packages_are_imported_only_where_used() -> None:
    """Heavy or optional packages never load with the package itself."""
    import subprocess
    import sys

    code = "import sys, penstock; print(sorted({'numpy','PIL','aiohttp','pyarrow','rich','cyclopts','torch','ray','dask'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
