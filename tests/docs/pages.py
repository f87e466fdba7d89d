"""The pages of the documentation, taken apart.

Comments that readers do not see say what a page is to the tests::

    <!-- docs-test: compile -->                     the next block is only compiled: it needs what is not here
    <!-- docs-test: raises KeyError -->             the next block ends in this error
    <!-- docs-test: also postgresql18 mariadb -->   the whole page runs on these servers too
    <!-- docs-test: only postgresql18 -->           the whole page runs on this server and not on SQLite
    <!-- docs-test: needs rabbitmq -->              a broker, which AMQP_URL names
    <!-- docs-test: file payments.py -->            from here on the Python blocks are this file; commands run it
    <!-- docs-test: setup                           code that runs here and is not shown
    -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from idemtable import upgrade
from tests.support.backends import server

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(ROOT)): path for path in [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]}

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")
_DIRECTIVE = re.compile(r"^<!-- docs-test: (?P<words>.*?)(?P<end> -->)?$")
_PRINTED = re.compile(r"^\s*print\(.*\)\s{2,}# (?P<text>.*)$")


@dataclass
class Block:
    """A fenced block, or a hidden one; `file` is what a reader saves it as."""

    language: str
    line: int
    file: str = ""
    lines: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def prints(self) -> list[str]:
        """What its comments say that it prints."""
        return [found["text"] for line in self.lines if (found := _PRINTED.match(line))]


@dataclass
class Page:
    """A page, taken apart."""

    path: Path
    blocks: list[Block]
    prose: str
    places: list[str]
    needs: list[str]

    @property
    def python(self) -> list[Block]:
        return [block for block in self.blocks if block.language == "python"]

    @property
    def is_saved(self) -> bool:
        """Whether its blocks are files that a reader saves and runs."""
        return any(block.file for block in self.blocks)

    def file(self, name: str) -> str:
        """The whole of a file that the page shows in pieces."""
        return "\n".join(block.text for block in self.python if block.file == name)


def read(path: Path) -> Page:
    """Take a page apart; an unknown directive or a block that never ends is an error of the page."""
    blocks: list[Block] = []
    prose: list[str] = []
    places: list[str] = ["sqlite"]
    needs: list[str] = []
    words: list[str] = []
    file = ""
    current: Block | None = None
    end = re.compile("never")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if current is not None:
            if end.fullmatch(line.strip()):
                blocks.append(current)
                current = None
            else:
                current.lines.append(line)
        elif found := _DIRECTIVE.match(line.strip()):
            name, *rest = found["words"].split()
            if name in ("also", "only"):
                places = [*(places if name == "also" else []), *rest]
            elif name == "needs":
                needs += rest
            elif name == "file":
                (file,) = rest
            elif name == "setup":
                assert not file, f"{path}:{number}: a reader does not see this and could not save it"
                current, end = Block("python", number), re.compile("-->")
            else:
                assert name in ("compile", "raises"), f"{path}:{number}: unknown directive {name}"
                words = [name, *rest]
        elif found := _FENCE.match(line):
            language = found["info"].strip().split(" ")[0]
            saved = file if language == "python" and not words else ""
            current, end = Block(language, number, saved, words=words), re.compile(found["ticks"])
            words = []
        else:
            prose.append(line)
    assert current is None, f"{path}: the block of line {current and current.line} never ends"
    assert not words, f"{path}: a directive without a block"
    for block in blocks:
        assert block.language, f"{path}:{block.line}: a block without a language"
    return Page(path, blocks, "\n".join(prose), places, needs)


PARSED = {name: read(path) for name, path in PAGES.items()}


@contextmanager
def empty_database(where: str, directory: Path) -> Iterator[str]:
    """Give the URL of a database that has nothing in it."""
    if where == "sqlite":
        yield f"sqlite:///{directory / 'docs.db'}"
        return
    found = server(where)
    name = f"docs_{uuid4().hex[:12]}"
    found.create_database(name)
    try:
        yield sa.make_url(found.url(name)).render_as_string(hide_password=False)
    finally:
        found.drop_database(name)


@contextmanager
def fresh_database(where: str, directory: Path) -> Iterator[str]:
    """Give the URL of a database that has the library's table and nothing else."""
    with empty_database(where, directory) as url:
        upgrade.upgrade(url)
        yield url
