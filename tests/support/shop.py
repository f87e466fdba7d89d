"""The example shop: found, migrated, started as a reader starts it."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from alembic import command
from alembic.config import Config

from tests.servers.ports import HOST, Probe, free_port
from tests.servers.process import ServerProcess, new_home, remove

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SHOP = EXAMPLES / "shop"
if str(EXAMPLES) not in sys.path:  # the shop's modules import each other as those of a package of that name
    sys.path.append(str(EXAMPLES))

_PROBE = Probe(b"GET /openapi.json HTTP/1.0\r\n\r\n", b"HTTP/1.1 200")


def alembic(url: str, run: str, *arguments: str, folder: Path = SHOP) -> None:
    """Run a command of Alembic's in the shop's project."""
    with patch.dict(os.environ, {"SHOP_URL": url}):
        getattr(command, run)(Config(folder / "alembic.ini"), *arguments)


@dataclass
class Shop:
    """A shop that is open."""

    address: str
    path: Path

    def orders(self) -> int:
        with self._connected() as connection:
            return int(connection.execute("SELECT count(*) FROM orders").fetchone()[0])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nobody write meanwhile: who wants to waits."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def open_shop() -> Iterator[Shop]:
    """`make shop`, with nothing to install: the tests' own Python has it all."""
    home, port = new_home("shop"), free_port()
    path = home / "shop.db"
    venv = sys.prefix
    command = ["make", "-C", str(ROOT), "-o", f"{venv}/.run", "-o", f"{venv}/.shop", "shop", f"VENV={venv}"]
    command += [f"PORT={port}", f"SHOP_URL=sqlite:///{path}"]
    server = ServerProcess(command, home, port, _PROBE, environment={"PYTHONPATH": str(ROOT)})
    try:
        server.start()
        yield Shop(f"http://{HOST}:{port}", path)
        server.stop()
    except BaseException:
        server.kill()
        remove(home)
        raise
