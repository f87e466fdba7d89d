"""The databases, with their usual durability: every COMMIT reaches the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pymysql.constants import CLIENT
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.servers import Server, mariadb, mysql, postgresql

CLIENTS = 8

# Room for the whole of what is measured, so that no run waits for a page to come back from the disk.
_INNODB = "innodb_buffer_pool_size=256M"


@dataclass(frozen=True)
class Place:
    """One kind of server.

    Args:
        title: for readers.
        start: starts it.
        package: of its driver.
        colours: also asynchronous with the same driver.
    """

    title: str
    start: Callable[[], Server]
    package: str
    is_async: bool = False


PLACES = {
    "postgresql": Place(
        "PostgreSQL",
        partial(postgresql, fast=False, extra=["shared_buffers=256MB", "max_wal_size=4GB"]),
        "psycopg",
        is_async=True,
    ),
    "mariadb": Place("MariaDB", partial(mariadb, fast=False, extra=[_INNODB, "innodb_log_file_size=256M"]), "PyMySQL"),
    "mysql": Place("MySQL", partial(mysql, fast=False, extra=[_INNODB, "innodb_redo_log_capacity=256M"]), "PyMySQL"),
}


_VAST: dict[str, Callable[[], Server]] = {
    "postgresql": partial(postgresql, fast=False, extra=["shared_buffers = 2GB", "max_wal_size = 8GB"]),
    "mariadb": partial(mariadb, fast=False, extra=["innodb_buffer_pool_size=2G", "innodb_log_file_size=2G"]),
    "mysql": partial(mysql, fast=False, extra=["innodb_buffer_pool_size=2G", "innodb_redo_log_capacity=4G"]),
}


@contextmanager
def vast(name: str) -> Iterator[str]:
    """Start a database with memory for tables of millions of rows; give its URL."""
    if name == "sqlite":
        with tempfile.TemporaryDirectory(prefix="idemtable-bench-") as folder:
            url = f"sqlite:///{Path(folder) / 'bench.db'}"
            one = sa.create_engine(url)
            with one.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            one.dispose()
            yield url
        return
    with _VAST[name]() as server:
        server.create_database("bench")
        yield server.url("bench")


def engine(url: sa.URL, **options: Any) -> sa.Engine:
    """Make an engine with a connection for each client."""
    plain: dict[str, Any] = {}
    if url.get_driver_name() == "pymysql":
        # It reads the machine's certificates for each connection, and none of the servers has one. And where it may send
        # several statements at once, claim and lock wait travel together on MySQL; to the others it makes no difference.
        plain = {"connect_args": {"ssl_disabled": True, "client_flag": CLIENT.MULTI_STATEMENTS}}
    return sa.create_engine(url, pool_size=CLIENTS, max_overflow=2, **plain, **options)


def async_engine(url: sa.URL) -> AsyncEngine:
    """Make an async engine with a connection for each client."""
    return create_async_engine(url, pool_size=CLIENTS, max_overflow=2)


def beside(one: sa.Engine) -> sa.Engine:
    """Make an engine that works on another one's connections: the base's beside the library's.

    With connections of their own, the server has a process or thread for each: where the system happens to put it, on the
    client's core or on the other, makes the same work up to a third slower, for seconds. On one connection that hits all
    alike, and so does what the operation before has left behind.
    """
    return sa.Engine(one.pool, one.dialect, one.url)


def version(one: sa.Engine) -> str:
    """Ask a server which one it is."""
    with one.connect() as connection:
        if one.dialect.name == "sqlite":
            return str(connection.exec_driver_sql("SELECT sqlite_version()").scalar())
        if one.dialect.name == "postgresql":
            return str(connection.exec_driver_sql("SHOW server_version").scalar()).split()[0]
        return str(connection.exec_driver_sql("SELECT version()").scalar()).split("-")[0]


def sqlite(stack: ExitStack, synchronous: str) -> tuple[sa.Engine, sa.Engine]:
    """Make the base's engine and the library's, each with a file of its own.

    In one file, each commit of the one would empty the other's cache of pages, which is dear and the same for both: the
    ratio would come out too well. The base begins with the write lock, by the recipe of SQLAlchemy's documentation: without
    it the driver begins where it likes.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idemtable-bench-")))
    both = []
    for name in ("base", "library"):
        one = engine(sa.make_url(f"sqlite:///{folder / name}.db"))
        sa.event.listen(one, "connect", partial(_settle, synchronous, name == "base"))
        if name == "base":
            sa.event.listen(one, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        stack.callback(one.dispose)
        both.append(one)
    return both[0], both[1]


def _settle(synchronous: str, explicit: bool, connection: Any, record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    if explicit:
        connection.isolation_level = None
