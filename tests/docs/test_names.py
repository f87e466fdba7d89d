"""What the documentation names exists, and what exists is named."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator

import click
import pytest

import idemtable
from idemtable import IdemTable, Status, errors
from tests.docs.pages import DOCS, PAGES, PARSED, ROOT, Page


def commands() -> dict[str, click.Command]:
    """Every command of the command line, by the words one types after ``idemtable``."""
    from idemtable.cli import main

    found: dict[str, click.Command] = {}

    def collect(words: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                collect(f"{words} {name}".strip(), inner)
        else:
            found[words] = command

    collect("", main)
    return found


def command_lines(page: Page) -> Iterator[tuple[int, str]]:
    """Every ``idemtable …`` that a page tells people to type, in blocks and in the text."""
    for block in page.blocks:
        if block.language == "python":
            continue
        joined = block.text.replace("\\\n", " ")
        for line in joined.splitlines():
            if found := re.search(r"(?:^|[\s/])idemtable ((?!\[)[a-z].*)$", line.split("  #")[0]):
                yield block.line, found[1]
    for number, line in enumerate(page.prose.splitlines(), 1):
        for found in re.finditer(r"`idemtable ([a-z][^`]*)`", line):
            yield number, found[1]


@pytest.mark.parametrize("name", PAGES)
def test_commands_in_the_text_exist(name: str) -> None:
    known = commands()
    groups = {words.split()[0] for words in known if " " in words}
    for number, line in command_lines(PARSED[name]):
        words = shlex.split(line, comments=True)
        verb = " ".join(words[:2]) if words[0] in groups else words[0]
        if "|" in verb or verb in groups or verb.endswith("…"):
            continue
        assert verb in known, f"{name}:{number}: no command `idemtable {verb}`"
        options = {option for parameter in known[verb].params for option in parameter.opts} | {"--help"}
        for word in words:
            option = word.partition("=")[0]
            if option.startswith("--"):
                assert option in options, f"{name}:{number}: `idemtable {verb}` has no {option}"


def test_every_command_and_option_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    for words, command in commands().items():
        assert f"`idemtable {words}" in text, f"idemtable {words}"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"`{parameter.opts[-1]}" in text, f"{parameter.opts[-1]} of idemtable {words}"


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: (?:\w+\.)*(\w+)", text, re.M)) | set(re.findall(r"`(?:idemtable\.)?(\w+)", text))
    assert set(idemtable.__all__) <= documented, sorted(set(idemtable.__all__) - documented)


def test_documented_objects_exist() -> None:
    for page in PARSED.values():
        for path in re.findall(r"^::: (idemtable[\w.]*)$", page.prose, re.M):
            parts = path.split(".")
            for cut in range(len(parts), 0, -1):
                try:
                    found = __import__(".".join(parts[:cut]), fromlist=["x"])
                except ImportError:
                    continue
                for part in parts[cut:]:
                    found = getattr(found, part)
                break
            assert found is not None, path


def test_every_setting_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    for function in (IdemTable.__init__, IdemTable.transactional, IdemTable.purge):
        for parameter in inspect.signature(function).parameters:
            assert parameter == "self" or f"`{parameter}`" in text, parameter


@pytest.mark.parametrize("name", ["README.md", "docs/reference/errors.md"])
def test_errors_are_listed_with_their_status(name: str) -> None:
    listed: dict[str, str] = {}
    for line in PARSED[name].prose.splitlines():
        if line.startswith("| `") and (cells := [cell.strip() for cell in line.split("|")[1:-1]]):
            listed.update(dict.fromkeys(re.findall(r"`(\w+Error)`", cells[0]), cells[1]))
    for error in errors.__all__:
        cls = getattr(errors, error)
        if not cls.__subclasses__():
            assert listed.get(error) == str(cls.http_status), error


def test_the_home_page_and_the_readme_begin_with_the_same_program_and_commands() -> None:
    """Some ten lines of code, and two commands."""
    pages = PARSED["docs/index.md"], PARSED["README.md"]
    assert len([line for line in pages[0].python[1].lines if line.strip()]) <= 12
    starts = [next(block for block in page.blocks if block.language == "console") for page in pages]
    assert [len(block.lines) for block in starts] == [2, 2]
    assert pages[0].python[0].text == pages[1].python[0].text
    assert pages[0].python[1].text == pages[1].python[1].text
    assert starts[0].text == starts[1].text


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_every_recipe_is_listed(name: str) -> None:
    for recipe in (DOCS / "recipes").glob("*.md"):
        assert f"recipes/{recipe.name})" in PARSED[name].prose, recipe.name


def test_every_extra_is_in_the_readme() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = PARSED["README.md"].prose.partition("\nExtras: ")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(project["optional-dependencies"])


def test_every_status_that_can_be_asked_for_is_in_the_reference() -> None:
    prose = PARSED["docs/reference/table.md"].prose
    for status in Status:
        assert f"`{status.name}`" in prose, status


def test_make_targets_in_the_text_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for name, page in PARSED.items():
        shell = "\n".join(block.text for block in page.blocks if block.language == "console")
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", f"{shell}\n{page.prose}", re.M):
            assert target in targets, f"{name}: make {target}"
