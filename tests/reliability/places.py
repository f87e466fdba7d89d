"""Where experiments run: each engine, over the plain path and over the one where COMMIT travels with the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from tests.servers import Server, mariadb, mysql, postgresql
from tests.support.backends import database
from tests.support.database import Database


@dataclass(frozen=True)
class Engine:
    """A server and the driver that both paths go through, with its async fellow."""

    title: str
    server: str
    kind: str
    driver: str
    async_driver: str
    fused: str
    """The backend's name, in the words of `tests.support.backends`, where COMMIT travels with the result."""
    plain: str
    start: Any


ENGINES: Mapping[str, Engine] = {
    "postgresql18": Engine(
        "PostgreSQL 18", "postgresql18", "postgresql", "postgresql+psycopg", "postgresql+psycopg_async",
        "postgresql18", "postgresql18-listened", partial(postgresql, 18),
    ),
    "postgresql16": Engine(
        "PostgreSQL 16", "postgresql16", "postgresql", "postgresql+psycopg", "postgresql+psycopg_async",
        "postgresql16-psycopg", "postgresql16-listened", partial(postgresql, 16),
    ),
    "mariadb10.11": Engine(
        "MariaDB 10.11", "mariadb", "mariadb", "mysql+pymysql", "mysql+asyncmy",
        "mariadb", "mariadb-listened", mariadb,
    ),
    "mariadb11.8": Engine(
        "MariaDB 11.8", "mariadb11.8", "mariadb", "mysql+pymysql", "mysql+asyncmy",
        "mariadb11", "mariadb11-listened", partial(mariadb, "11.8"),
    ),
    "mysql9.7": Engine(
        "MySQL 9.7", "mysql", "mysql", "mysql+pymysql", "mysql+asyncmy",
        "mysql-several", "mysql", mysql,
    ),
}  # fmt: skip
PATHS = ("fused", "plain")


@dataclass(frozen=True)
class Place:
    """An engine and a path."""

    engine: str
    path: str

    @property
    def found(self) -> Engine:
        return ENGINES[self.engine]

    @property
    def title(self) -> str:
        return f"{self.found.title}, {self.path}"

    @property
    def key(self) -> str:
        """Its name where results are kept, and where it is chosen."""
        return f"{self.engine} {self.path}"

    @property
    def kind(self) -> str:
        """As `Database.kind` says it."""
        return self.found.kind

    @property
    def backend(self) -> str:
        return self.found.fused if self.path == "fused" else self.found.plain

    @property
    def database(self) -> Database:
        """A database of this process, on a server that others share."""
        return database(self.backend, self.found.server, self.found.driver)

    @property
    def async_database(self) -> Database:
        """Another one on that server, for an AsyncEngine: over asyncmy both paths are the plain one."""
        listened = "-listened" if self.path == "plain" else ""
        return database(f"{self.found.server}{listened}-async", self.found.server, self.found.async_driver)

    @contextmanager
    def own(self, *extra: str) -> Iterator[tuple[Server, Database]]:
        """A server for this alone, which may be killed, with a database on it."""
        with self.found.start(extra=extra) as server:
            name = f"db_{uuid4().hex[:12]}"
            server.create_database(name)
            db = Database(self.backend, sa.make_url(server.url(name)), self.found.driver)
            try:
                yield server, db
            finally:
                db.close()


PLACES = [Place(engine, path) for engine in ENGINES for path in PATHS]
