"""On a terminal: what asks first, and what shows its progress."""

from __future__ import annotations

import os
import pty
import subprocess

import sqlalchemy as sa

from idemtable import IdemTable
from tests.support.cli import COMMAND, Run, expire, keep


def on_terminal(*args: str, typed: str = "") -> tuple[int, str]:
    """Run a command whose stdin and stderr are a terminal; give its exit code and all it wrote."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    ended = subprocess.run([*COMMAND, *args], stdin=theirs, stdout=theirs, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65_536):
            written += piece
    except OSError:  # how Linux says that nobody is at the other end
        pass
    finally:
        os.close(ours)
    return ended.returncode, written.decode()


def test_forget_asks_on_a_terminal(file_url: str, run: Run) -> None:
    engine = sa.create_engine(file_url)
    idem = IdemTable(engine)
    keep(idem, "r-1")
    code, written = on_terminal("forget", "orders", "r-1", "--url", file_url, typed="n\n")
    assert code == 1
    assert "run again?" in written
    assert idem.get("orders", "r-1")
    assert on_terminal("forget", "orders", "r-1", "--url", file_url, typed="y\n")[0] == 0
    assert idem.get("orders", "r-1") is None
    engine.dispose()


def test_downgrade_asks_on_a_terminal(file_url: str, run: Run) -> None:
    assert on_terminal("db", "downgrade", "--url", file_url, typed="n\n")[0] == 1
    assert run("db", "check", "--url", file_url).code == 0
    assert on_terminal("db", "downgrade", "--yes", "--url", file_url)[0] == 0


def test_purge_shows_its_progress_on_a_terminal(file_url: str) -> None:
    engine = sa.create_engine(file_url)
    expire(IdemTable(engine), 4)
    engine.dispose()
    code, written = on_terminal("purge", "--batch", "1", "--url", file_url)
    assert code == 0
    assert "4/4" in written
    assert "deleted 4 expired records in 4 batches" in written
