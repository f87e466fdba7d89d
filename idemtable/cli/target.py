"""From the URL a person gave to an engine: its driver and its file are checked before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import click
import sqlalchemy as sa

from ..dialects import full_name, known, named
from ..errors import SchemaError
from ..table import IdemTable
from ..upgrade import place


@dataclass(frozen=True)
class Target:
    """Which table in which database."""

    url: sa.URL
    """With a driver. It may be an async one, which ``idemtable.upgrade`` takes as it is."""
    table: str
    schema: str | None

    def __post_init__(self) -> None:
        """Refuse a schema that no connection to this URL can have."""
        refuse_schema(self.url.get_backend_name(), self.schema)

    @property
    def names(self) -> dict[str, Any]:
        """The table's and the schema's name, as functions take them."""
        return {"table": self.table, "schema": self.schema}

    @property
    def place(self) -> str:
        """The table and its database, for people."""
        return f"the table {full_name(self.table, self.schema)} in {place(self.url)}"

    @property
    def no_file(self) -> str | None:
        """What to say where the URL's file does not exist; ``None`` if it does, or the database is no file."""
        database = known.get(self.url.get_backend_name())
        name = None if database is None else database.missing_file(self.url)
        return None if name is None else f"there is no file {name}. `idemtable db upgrade` creates it, with the table"

    @property
    def in_memory(self) -> bool:
        """Whether all that a command makes there is gone when the command ends."""
        return self.url.get_backend_name() in known and known[self.url.get_backend_name()].in_memory(self.url)

    def require_file(self) -> None:
        """Refuse a file that does not exist; connecting would create it, empty.

        Raises:
            SchemaError: there is none; the message is the cure.
        """
        if (missing := self.no_file) is not None:
            raise SchemaError(missing)

    def keys(self) -> IdemTable:
        """Give the table of keys, ready for its verbs.

        Raises:
            SchemaError: a file that does not exist.
            ImportError: the driver is not installed.
        """
        self.require_file()
        click.get_current_context().call_on_close(self.engine.dispose)
        return IdemTable(self.engine, **self.names)

    @cached_property
    def engine(self) -> sa.Engine:
        """An engine with a sync driver, in the async one's place if need be."""
        return sa.create_engine(_sync(self.url), pool_pre_ping=True, pool_size=1)


def refuse_schema(backend: str, schema: str | None) -> None:
    """Refuse a schema of a database whose schemas are what a program's connections have attached: a URL attaches nothing.

    Raises:
        ValueError: such a one; the message is the cure.
    """
    if backend in known and known[backend].is_file:
        known[backend].check_schema(schema, None, create=True)


def driven(url: sa.URL) -> sa.URL:
    """Name a driver where the URL names none: the default of SQLAlchemy differs between its versions."""
    backend = url.get_backend_name()
    for name, database in known.items():
        if backend in database.mistaken:
            raise ValueError(f"this URL begins with {backend}://, which SQLAlchemy does not take: write {name}://")
    if "+" in url.drivername or backend not in known:
        return url
    return url.set(drivername=f"{backend}+{known[backend].drivers[0].name}")


def _sync(url: sa.URL) -> sa.URL:
    driver = named(url.get_backend_name()).drivers[0]
    if not url.get_dialect().is_async:
        return url
    if find_spec(driver.module) is None:
        lacks = f"is async and its sync sibling {driver.name} is not installed"
        raise ImportError(f"{url.get_driver_name()} {lacks}: {driver.cure}")
    return url.set(drivername=f"{url.get_backend_name()}+{driver.name}")
