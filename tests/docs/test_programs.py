"""Pages that are programs are done as a reader does them.

The blocks are saved as the files that the page names, in an empty folder, each below the one before; the page's commands
are run where they stand. A program must print what its comments say, as far as it has come, every time that it is run.
"""

from __future__ import annotations

import os
import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PARSED, ROOT, Page, empty_database
from tests.support.backends import rabbitmq_server
from tests.support.forked import python
from tests.support.plugin import PLUGIN

PROGRAMS = {name: page for name, page in PARSED.items() if page.is_saved}
BROKERS = {"rabbitmq": ("AMQP_URL", rabbitmq_server)}
COMMANDS = {
    "python": [],
    "pytest": ["-m", "pytest", "-p", "no:cacheprovider", *PLUGIN],
    "idemtable": ["-m", "idemtable"],
}
TUTORIAL = PARSED["docs/tutorial.md"]
PAYMENTS = DOCS / "examples" / "payments.py"


def follow(page: Page, folder: Path, url: str) -> list[str]:
    """Do what the page says; give the commands that were run."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment |= {"IDEMTABLE_URL": url, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    environment |= {name: start().url() for name, start in map(BROKERS.__getitem__, page.needs)}
    prints: dict[str, list[str]] = {}
    done = []
    for block in page.blocks:
        if block.file:
            with open(folder / block.file, "a", encoding="utf-8") as file:
                file.write("\n\n" + block.text)
            prints[block.file] = [*prints.get(block.file, []), *block.prints]
        elif block.language == "console":
            for line in block.lines:
                words = line.split("#")[0].split()
                if not words or words[0] not in COMMANDS:
                    continue
                where = f"{page.path}:{block.line}: {line}"
                ended = python([*COMMANDS[words[0]], *words[1:]], cwd=folder, env=environment)
                assert ended.returncode == 0, f"{where}\n{ended.stdout}{ended.stderr}"
                if words[0] == "python":
                    assert ended.stdout.splitlines() == prints[words[1]], f"{where}\n{ended.stderr}"
                done.append(" ".join(words))
    return done


def missing(page: Page) -> list[str]:
    """The distributions that the page has its readers install, and that are not here."""
    lines = [line.split("#")[0] for block in page.blocks if block.language == "console" for line in block.lines]
    wanted = [word for line in lines if line.startswith("pip install ") for word in shlex.split(line)[2:]]
    names = [re.match(r"[\w.-]+", word)[0] for word in wanted if "/" not in word]  # type: ignore[index]
    return [name for name in names if not any(metadata.distributions(name=name))]


@pytest.mark.parametrize(
    ("name", "where"), [pytest.param(name, where) for name, page in PROGRAMS.items() for where in page.places]
)
@pytest.mark.timeout(300)
def test_a_reader_gets_what_the_page_says(name: str, where: str, tmp_path: Path) -> None:
    if absent := missing(PROGRAMS[name]):
        reason = f"{', '.join(absent)} not installed; `make test` does"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(f"!!! NOT TESTED !!! {reason}")
    folder = tmp_path / "empty"
    folder.mkdir()
    with empty_database(where, tmp_path) as url:
        done = follow(PROGRAMS[name], folder, url)
    files = {block.file: PROGRAMS[name].file(block.file) for block in PROGRAMS[name].blocks if block.file}
    run = {word for command in done for word in command.split()}
    for file in files:
        imported = any(f"from {file.removesuffix('.py')} import" in text for text in files.values())
        assert file in run or imported or "pytest" in run, f"{name} shows {file} and never runs it"


def test_the_tutorial_runs_its_file_twice_from_top_to_bottom() -> None:
    """With the table made and all of the file there; that both runs print the same is what the reader's test checks."""
    after = TUTORIAL.blocks[max(number for number, block in enumerate(TUTORIAL.blocks) if block.file) :]
    lines = [line for block in after if block.language == "console" for line in block.lines]
    assert sum(line.startswith("python payments.py") for line in lines) >= 2
    assert TUTORIAL.places == ["sqlite", "postgresql18"]


def test_the_tutorials_pieces_are_the_file_in_the_examples() -> None:
    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.strip()]

    assert lines(TUTORIAL.file("payments.py")) == lines(PAYMENTS.read_text(encoding="utf-8"))
