"""What the documentation says is run.

In docs/ and at the top level every Python block of a page is executed, in order, in one module, in an empty directory,
with ``IDEMTABLE_URL`` set to a SQLite file in which the table has been made. A comment after a ``print`` is what it must
print. ``tests/docs/pages.py`` tells what a page can ask for.
"""

from __future__ import annotations

import builtins
import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa

from idemtable import errors
from tests.docs.pages import PAGES, PARSED, Block, fresh_database

RUNS = [
    pytest.param(name, where, id=f"{name}-{where}")
    for name, page in PARSED.items()
    if page.python and not page.is_saved
    for where in page.places
]


@pytest.mark.parametrize(("name", "where"), RUNS)
def test_python_blocks_run(name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with fresh_database(where, tmp_path) as url:
        monkeypatch.setenv("IDEMTABLE_URL", url)
        play(name)


@pytest.mark.parametrize("name", [name for name, page in PARSED.items() if page.python and not page.is_saved])
def test_a_page_can_be_run_again_in_its_database(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a reader who comes back to it; what is printed is another thing then: that of replays."""
    monkeypatch.chdir(tmp_path)
    with fresh_database(PARSED[name].places[0], tmp_path) as url:
        monkeypatch.setenv("IDEMTABLE_URL", url)
        for _ in range(2):
            play(name, prints=False)


def play(name: str, *, prints: bool = True) -> None:
    """Run the blocks of a page."""
    module = ModuleType("docs_" + re.sub(r"\W", "_", name))  # the same each time: exceptions are remembered by it
    sys.modules[module.__name__] = module
    try:
        for block in PARSED[name].python:
            run(block, PAGES[name], module, prints=prints)
    finally:
        for value in list(vars(module).values()):
            if isinstance(value, sa.Engine):
                value.dispose()
        del sys.modules[module.__name__]


def run(block: Block, path: Path, module: ModuleType, *, prints: bool = True) -> None:
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
    if prints and block.prints:
        assert printed.getvalue().splitlines() == block.prints, f"{path}:{block.line} prints something else"
