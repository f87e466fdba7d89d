"""The picture of the floors in the docs is the contract that the linter holds."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pictured() -> list[tuple[str, list[str]]]:
    """The floors of the picture, from the top, with their modules."""
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    found = re.search(r"```text\n(edges.*?)```", page, re.DOTALL)
    assert found is not None
    lines = [re.split(r"\s{2,}", line.strip()) for line in found[1].splitlines()]
    return [(floor, [name.rstrip("/") for name in names]) for floor, *names in lines]


def contracted() -> list[set[str]]:
    """The layers of the contract, from the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (
        one for one in settings["tool"]["importlinter"]["contracts"] if one.get("containers") == ["idemtable"]
    )
    assert contract["exhaustive"] is True
    return [set(re.split(r"\s*\|\s*", layer)) for layer in contract["layers"]]


def test_every_module_stands_on_one_floor_of_the_picture() -> None:
    modules = [name for _, names in pictured() for name in names]
    package = ROOT / "idemtable"
    there = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert sorted(modules) == sorted(there - {"__init__", "migrations"})


def test_the_picture_has_the_order_of_the_contract() -> None:
    layers = contracted()
    level = {name: number for number, layer in enumerate(layers) for name in layer}
    floors = [[level[name] for name in names] for _, names in pictured()]
    assert sorted(level) == sorted(name for _, names in pictured() for name in names)
    for upper, lower in pairwise(floors):
        assert max(upper) < min(lower)


def test_a_page_of_the_engine_names_each_of_its_rooms() -> None:
    text = (ROOT / "idemtable" / "claim" / "__init__.py").read_text(encoding="utf-8")
    rooms = {path.stem for path in (ROOT / "idemtable" / "claim").glob("*.py")} - {"__init__"}
    assert (
        set(re.findall(r"^`(\w+)`", text, re.MULTILINE)) | set(re.findall(r"^`\w+`, `(\w+)`", text, re.MULTILINE))
        == rooms
    )
