"""The backends, and what runs behind them: started once in a process, and kept for its life."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from tests.servers import (
    MissingEngine,
    RabbitServer,
    RedisServer,
    Server,
    from_environment,
    mariadb,
    mysql,
    postgresql,
    rabbitmq,
    redis,
)
from tests.servers.process import new_home, remove
from tests.support.database import Database
from tests.support.roles import HiredDatabase

_ALL = {
    "sqlite": ("sqlite", "sqlite"),
    "sqlite-async": ("sqlite", "sqlite+aiosqlite"),
    "postgresql16": ("postgresql16", "postgresql+psycopg2"),
    "postgresql18": ("postgresql18", "postgresql+psycopg"),
    "postgresql18-listened": ("postgresql18", "postgresql+psycopg"),  # statement by statement, not in packets
    "postgresql18-async": ("postgresql18", "postgresql+psycopg_async"),
    "postgresql18-asyncpg": ("postgresql18", "postgresql+asyncpg"),
    "mariadb": ("mariadb", "mysql+pymysql"),
    "mariadb-async": ("mariadb", "mysql+asyncmy"),
    "mariadb11": ("mariadb11.8", "mysql+pymysql"),
    "mysql": ("mysql", "mysql+pymysql"),
    "mysql-several": ("mysql", "mysql+pymysql"),  # which allows several statements in one packet
    "mysql-async": ("mysql", "mysql+asyncmy"),
    "mysql-connector": ("mysql", "mysql+mysqlconnector"),
}
if find_spec("MySQLdb"):  # mysqlclient is built where it is installed, which takes a compiler and the headers
    _ALL["mariadb-mysqlclient"] = ("mariadb", "mysql+mysqldb")
_OFF: tuple[str, ...] = ()
"""Those that the library does not keep its promises on yet."""

BACKENDS = {name: backend for name, backend in _ALL.items() if name not in _OFF}
"""Every database and driver: the server, and SQLAlchemy's name of dialect and driver."""

# A module that makes a database known, whose backends take these ones' place.
if others := os.environ.get("IDEMTABLE_TEST_BACKENDS"):
    BACKENDS = import_module(others).BACKENDS

HIRED = bool(os.environ.get("IDEMTABLE_TEST_ROLES"))
"""Whether all databases are spoken to as an application's user, who has no right more than it needs: `make roles`."""
if HIRED:
    BACKENDS = {name: backend for name, backend in BACKENDS.items() if backend[0] != "sqlite"}  # which has no users

_STARTERS = {
    "postgresql16": partial(postgresql, 16),
    "postgresql18": partial(postgresql, 18),
    "mariadb": mariadb,
    "mariadb11.8": partial(mariadb, "11.8"),
    "mysql": mysql,
}
_started: list[Server | RedisServer | RabbitServer] = []
_databases: dict[tuple[str, bool], Database] = {}


@contextmanager
def needed() -> Iterator[None]:
    """Start servers inside: a missing engine is a loud skip for a person, who may not have it, and a failure in CI."""
    try:
        yield
    except MissingEngine as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(f"!!! NOT TESTED !!! {error}")


@cache
def server(name: str) -> Server:
    """Start a server once in this process, or find it in the environment; a missing one fails in CI."""
    with needed():
        found = from_environment(name.rstrip("0123456789.")) or _STARTERS[name]()
    _started.append(found)
    return found


@cache
def redis_server() -> RedisServer:
    """Start Redis once in this process."""
    with needed():
        found = redis()
    _started.append(found)
    return found


@cache
def rabbitmq_server() -> RabbitServer:
    """Start RabbitMQ once in this process."""
    with needed():
        found = rabbitmq()
    _started.append(found)
    return found


def database(backend: str, where: str, driver: str, *, hired: bool = False) -> Database:
    """A database on a server, kept for the life of this process; by its backend's name, as `db_of` knows it too.

    `hired` is for one that is spoken to as the application's user, and not as its owner.
    """
    if (backend, hired) not in _databases:
        if where == "sqlite":
            url = sa.make_url(f"sqlite:///{new_home('sqlite') / 'database.db'}")
        else:
            found = server(where)
            name = f"db_{uuid4().hex[:12]}"
            found.create_database(name)
            url = sa.make_url(found.url(name))
        _databases[backend, hired] = (HiredDatabase if hired and where != "sqlite" else Database)(backend, url, driver)
    return _databases[backend, hired]


def db_of(backend: str, *, hired: bool = HIRED) -> Database:
    """The database of a backend, kept for the life of this process and swept for each test; see `database`."""
    db = database(backend, *{**_ALL, **BACKENDS}[backend], hired=hired)
    db.sweep()
    return db


def close_all() -> None:
    """Close every database and stop every server."""
    for db in _databases.values():
        db.close()
        if db.kind == "sqlite":
            remove(Path(str(db.url.database)).parent)
    _databases.clear()
    for found in _started:
        found.stop()
    _started.clear()
