"""What a test holds in its hands: a running server, ours or somebody else's."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from tests.servers.ports import HOST
from tests.servers.process import ServerProcess

_SYNC_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}


class Stopping(ABC):
    """As a context manager it stops at the end."""

    @abstractmethod
    def stop(self) -> None:
        """End all that was begun, for good."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(kw_only=True)
class Running(Stopping):
    """A server and, when it is ours, its process."""

    name: str
    host: str = HOST
    port: int
    process: ServerProcess | None = field(default=None, repr=False)

    @property
    def ours(self) -> bool:
        """Whether `kill` and `start` work."""
        return self.process is not None

    @property
    def pid(self) -> int:
        return self._own().pid

    def kill(self) -> None:
        """SIGKILL the server and its children."""
        self._own().kill()

    def start(self) -> None:
        """Start again after `kill`, on the same data and port."""
        self._own().start()

    def stop(self) -> None:
        """Stop the server for good and remove its data; a server that is not ours stays as it is."""
        if self.process is not None:
            self.process.stop()

    def _own(self) -> ServerProcess:
        if self.process is None:
            raise RuntimeError(f"{self.name} at {self.host}:{self.port} came from the environment: not ours to control")
        return self.process


@dataclass(kw_only=True)
class Server(Running):
    """A SQL database server. `address` is the URL of the database from which others are created."""

    address: URL = field(repr=False)

    def url(self, database: str, driver: str = "") -> str:
        """A SQLAlchemy URL; `driver` is a name such as `asyncpg`, or with the dialect, such as `mariadb+pymysql`."""
        dialect = self.address.get_backend_name()
        driver = driver or _SYNC_DRIVERS[dialect]
        name = driver if "+" in driver else f"{dialect}+{driver}"
        return self.address.set(drivername=name, database=database).render_as_string(hide_password=False)

    def create_database(self, name: str) -> None:
        # Else PostgreSQL writes each page of the template into its log: three times the work. Since 15, so only on ours.
        copied = self.ours and self.address.get_backend_name() == "postgresql"
        self._administer("CREATE DATABASE {}" + (" STRATEGY FILE_COPY" if copied else ""), name)

    def drop_database(self, name: str) -> None:
        force = " WITH (FORCE)" if self.address.get_backend_name() == "postgresql" else ""
        self._administer("DROP DATABASE IF EXISTS {}" + force, name)

    def _administer(self, statement: str, database: str) -> None:
        engine = create_engine(self.url(self.address.database or ""), isolation_level="AUTOCOMMIT")
        try:
            quoted = engine.dialect.identifier_preparer.quote_identifier(database)
            with engine.connect() as connection:
                connection.execute(text(statement.format(quoted)))
        finally:
            engine.dispose()


@dataclass(kw_only=True)
class RedisServer(Running):
    def url(self, database: int = 0) -> str:
        return f"redis://{self.host}:{self.port}/{database}"


@dataclass(kw_only=True)
class RabbitServer(Running):
    def url(self) -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/%2F"


def from_environment(name: str) -> Server | None:
    """The server that IDEMTABLE_TEST_<NAME>_URL points at; `name` is `postgresql`, `mariadb` or `mysql`."""
    variable = f"IDEMTABLE_TEST_{name.upper()}_URL"
    given = os.environ.get(variable)
    if not given:
        return None
    address = make_url(given)
    dialect = address.get_backend_name()
    if dialect not in _SYNC_DRIVERS:
        raise ValueError(
            f"{variable} must be a postgresql://, mysql:// or mariadb:// URL of SQLAlchemy, not {dialect}://"
        )
    if dialect == "postgresql" and not address.database:
        address = address.set(database="postgres")
    port = address.port or (5432 if dialect == "postgresql" else 3306)
    return Server(name=name, host=address.host or HOST, port=port, address=address)
