"""Fixtures over real servers: a fresh database for a test, or a house that a whole suite lives in."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from tests.houses import House
from tests.servers import MissingEngine, RedisServer, Server, from_environment, mariadb, postgresql, redis

_STARTERS = {
    "postgresql16": partial(postgresql, 16),
    "postgresql18": partial(postgresql, 18),
    "mariadb": mariadb,
}
_started: list[Server | RedisServer] = []

BACKENDS = {
    "sqlite": ("sqlite", "sqlite"),
    "sqlite-async": ("sqlite", "sqlite+aiosqlite"),
    "postgresql16": ("postgresql16", "postgresql+psycopg"),
    "postgresql16-asyncpg": ("postgresql16", "postgresql+asyncpg"),
    "postgresql18": ("postgresql18", "postgresql+psycopg"),
    "postgresql18-async": ("postgresql18", "postgresql+psycopg_async"),
    "postgresql18-asyncpg": ("postgresql18", "postgresql+asyncpg"),
    "mariadb": ("mariadb", "mysql+pymysql"),
    "mariadb-async": ("mariadb", "mysql+asyncmy"),
}
"""Every database in both colours: the server, and SQLAlchemy's name of dialect and driver."""

# A module that makes a database known, whose backends take these ones' place.
if others := os.environ.get("IDEMTABLE_TEST_BACKENDS"):
    BACKENDS = import_module(others).BACKENDS

NEWEST = [name for name in BACKENDS if not name.startswith("postgresql16")]
"""One version of each database: for features that ask nothing of a server that the contract suite does not."""


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
        found = from_environment(name.rstrip("0123456789")) or _STARTERS[name]()
    _started.append(found)
    return found


@cache
def redis_server() -> RedisServer:
    """Start Redis once in this process."""
    with needed():
        found = redis()
    _started.append(found)
    return found


def pytest_sessionfinish() -> None:
    for house in _houses.values():
        house.close()
    _houses.clear()
    for found in _started:
        found.stop()
    _started.clear()


@pytest.fixture(params=["sqlite", "postgresql18", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty database, as the URL of a sync driver."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    found = server(request.param)
    name = f"t_{uuid4().hex[:16]}"
    found.create_database(name)
    yield found.url(name)
    found.drop_database(name)


_houses: dict[str, House] = {}


def house_of(backend: str) -> House:
    """The house of a backend, kept for the life of this process and swept for each test."""
    if backend not in _houses:
        where, driver = BACKENDS[backend]
        if where == "sqlite":
            path = Path(tempfile.mkdtemp(prefix="idemtable-test-")) / "house.db"
            url = sa.make_url(f"sqlite:///{path}")
        else:
            found = server(where)
            name = f"house_{uuid4().hex[:12]}"
            found.create_database(name)
            url = sa.make_url(found.url(name))
        _houses[backend] = House(backend, url, driver)
    house = _houses[backend]
    house.sweep()
    return house


@pytest.fixture(params=list(BACKENDS))
def house(request: pytest.FixtureRequest) -> House:
    """Every database in both colours, with the tables made and empty."""
    return house_of(request.param)


@pytest.fixture(params=[name for name, (_, driver) in BACKENDS.items() if "async" not in name])
def sync_house(request: pytest.FixtureRequest) -> House:
    """Every database, sync only: for what does not depend on the colour."""
    return house_of(request.param)


@pytest.fixture(params=[name for name in BACKENDS if not name.startswith("sqlite")])
def server_house(request: pytest.FixtureRequest) -> House:
    """Every database that more than one can write to at once."""
    return house_of(request.param)


# Imported by name by test processes that are started from tests.
sys.path.insert(0, str(Path(__file__).parents[1]))
