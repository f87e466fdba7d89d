"""The commands there are, and the help of each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import click
import pytest

from idemtable.cli import main
from tests.support.cli import COMMAND, Run

DB = {"db", "db upgrade", "db downgrade", "db sql", "db check", "db revision"}
TOKENS = {"tokens", "tokens issue", "tokens ls", "tokens revoke"}


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in sorted(group.commands.items()):
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_the_verbs_are_these() -> None:
    assert {" ".join(path) for path in commands(main)} == DB | TOKENS | {
        "demo",
        "doctor",
        "forget",
        "ls",
        "purge",
        "show",
        "stats",
        "verify",
    }


@pytest.mark.parametrize("path", [(), *commands(main)], ids=" ".join)
def test_every_command_and_option_has_help(path: tuple[str, ...], run: Run) -> None:
    shown = run(*path, "--help")
    assert shown.code == 0
    assert "Exit codes:" in shown.out or path == ("demo",)
    command: Any = main
    for name in path:
        command = command.commands[name]
    assert command.help
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


def test_it_is_a_module_too() -> None:
    shown = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("idemtable, version ")
