"""What the documentation says is run, and what it names exists.

In docs/ and at the top level every Python block of a page is executed, in order, in one module, in an empty directory,
with ``IDEMTABLE_URL`` set to a SQLite file in which the table has been made. A comment after a ``print`` is what it must
print. Comments that readers do not see say what is different::

    <!-- docs-test: compile -->                     the next block is only compiled: it needs somebody else's framework
    <!-- docs-test: raises KeyError -->             the next block ends in this error
    <!-- docs-test: also postgresql18 mariadb -->   the whole page runs on these servers too
    <!-- docs-test: setup                           code that runs here and is not shown
    -->
"""

from __future__ import annotations

import builtins
import inspect
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import click
import pytest
import sqlalchemy as sa

import idemtable
from idemtable import IdemTable, errors, upgrade
from tests.support.backends import server

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(ROOT)): path for path in [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]}

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")
_DIRECTIVE = re.compile(r"^<!-- docs-test: (?P<words>.*?)(?P<end> -->)?$")
_PRINTED = re.compile(r"^\s*print\(.*\)\s{2,}# (?P<text>.*)$")


@dataclass
class Block:
    """A fenced block, or a hidden one."""

    language: str
    line: int
    lines: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass
class Page:
    """A page, taken apart."""

    path: Path
    blocks: list[Block]
    prose: str
    servers: list[str]

    @property
    def python(self) -> list[Block]:
        return [block for block in self.blocks if block.language == "python"]


def read(path: Path) -> Page:
    """Take a page apart; an unknown directive or a block that never ends is an error of the page."""
    blocks: list[Block] = []
    prose: list[str] = []
    servers: list[str] = []
    words: list[str] = []
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
            assert name in ("compile", "raises", "also", "setup"), f"{path}:{number}: unknown directive {name}"
            if name == "also":
                servers = rest
            elif name == "setup":
                current, end = Block("python", number), re.compile("-->")
            else:
                words = [name, *rest]
        elif found := _FENCE.match(line):
            current, end = Block(found["info"].strip().split(" ")[0], number, words=words), re.compile(found["ticks"])
            words = []
        else:
            prose.append(line)
    assert current is None, f"{path}: the block of line {current and current.line} never ends"
    assert not words, f"{path}: a directive without a block"
    for block in blocks:
        assert block.language, f"{path}:{block.line}: a block without a language"
    return Page(path, blocks, "\n".join(prose), servers)


PARSED = {name: read(path) for name, path in PAGES.items()}
RUNS = [
    pytest.param(name, where, id=f"{name}-{where}")
    for name, page in PARSED.items()
    if page.python
    for where in ["sqlite", *page.servers]
]


@contextmanager
def fresh_database(where: str, directory: Path) -> Iterator[str]:
    """Give the URL of a database that has the library's table and nothing else."""
    if where == "sqlite":
        url = f"sqlite:///{directory / 'docs.db'}"
        upgrade.upgrade(url)
        yield url
        return
    found = server(where)
    name = f"docs_{uuid4().hex[:12]}"
    found.create_database(name)
    try:
        url = sa.make_url(found.url(name)).render_as_string(hide_password=False)
        upgrade.upgrade(url)
        yield url
    finally:
        found.drop_database(name)


@pytest.mark.parametrize(("name", "where"), RUNS)
def test_python_blocks_run(name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(f"docs_{uuid4().hex[:8]}")
    sys.modules[module.__name__] = module
    monkeypatch.chdir(tmp_path)
    try:
        with fresh_database(where, tmp_path) as url:
            monkeypatch.setenv("IDEMTABLE_URL", url)
            try:
                for block in PARSED[name].python:
                    run(block, PAGES[name], module)
            finally:
                for value in list(vars(module).values()):
                    if isinstance(value, sa.Engine):
                        value.dispose()
    finally:
        del sys.modules[module.__name__]


def run(block: Block, path: Path, module: ModuleType) -> None:
    """Run one block; its line numbers are those of the page."""
    code = compile("\n" * block.line + block.text, str(path), "exec")
    if block.words[:1] == ["compile"]:
        return
    printed = io.StringIO()
    with redirect_stdout(printed):
        if block.words[:1] == ["raises"]:
            expected = getattr(errors, block.words[1], None) or getattr(builtins, block.words[1])
            with pytest.raises(expected):
                exec(code, vars(module))
        else:
            exec(code, vars(module))
    said = [found["text"] for line in block.lines if (found := _PRINTED.match(line))]
    if said:
        assert printed.getvalue().splitlines() == said, f"{path}:{block.line} prints something else"


# --- names ------------------------------------------------------------------------------------------------------------


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


def test_make_targets_in_the_text_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for name, page in PARSED.items():
        shell = "\n".join(block.text for block in page.blocks if block.language == "console")
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", f"{shell}\n{page.prose}", re.M):
            assert target in targets, f"{name}: make {target}"


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Page) -> set[str]:
    """The anchors of a page's headings, as GitHub and Zensical make them."""
    headings = re.findall(r"^#+ +(.+)$", page.prose, re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = PARSED[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if target.startswith(("https://", "http://")):
            continue
        where, _, anchor = target.partition("#")
        found = (page.path.parent / where).resolve() if where else page.path
        assert found.exists(), f"{name}: {target}"
        assert not where or page.path.parent == ROOT or DOCS in found.parents, (
            f"{name}: {target} is not part of the site"
        )
        if anchor and found.suffix == ".md":
            assert anchor in anchors(read(found)), f"{name}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def test_the_site_builds_without_broken_links(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="the documentation's tools are not installed; `make docs` does")
    import shutil
    import subprocess

    for part in ("docs", "idemtable"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("zensical.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / part, tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert check_site(tmp_path / "site") == []


def check_site(site: Path) -> list[str]:
    """Give the links of a built site that lead nowhere, and API blocks that were left as text."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    ids = {path: set(re.findall(r'\bid="?([^"\s>]+)', text)) for path, text in texts.items()}
    broken = []
    for path, text in texts.items():
        if path.name == "404.html":
            continue
        if re.search(r"<p>:::", text):
            broken.append(f"{path.name}: an API block was not rendered")
        for target in re.findall(r'\b(?:href|src)="?([^"\s>]+)', text):
            if re.match(r"[a-z]+:|//", target):
                continue
            where, _, anchor = target.partition("#")
            found = (path.parent / where).resolve() if where else path
            found = found / "index.html" if found.is_dir() else found
            if not found.exists() or (anchor and found in ids and anchor not in ids[found]):
                broken.append(f"{path.relative_to(site.resolve())}: {target}")
    return sorted(set(broken))


if __name__ == "__main__":  # `make docs`, after the build: python -m tests.test_docs site
    faults = check_site(Path(sys.argv[1]))
    print("\n".join(faults) or "no broken links")
    sys.exit(1 if faults else 0)
