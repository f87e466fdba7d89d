"""The table on SQLite: a file, and how migrations take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect

from ..catalogue.sqlite import SQLiteCatalogue
from ..definition import Definition
from ..words import lent

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection


class SQLiteTable(Definition):
    """What `SQLite` says of its file and of the table."""

    # --- on the command line ------------------------------------------------------------------------------------------

    @classmethod
    def in_memory(cls, url: URL) -> bool:
        name = (url.database or ":memory:").removeprefix("file:")
        return name == ":memory:" or url.query.get("mode") == "memory"

    @classmethod
    def missing_file(cls, url: URL) -> str | None:
        name = url.database
        if not name or cls.in_memory(url) or name.startswith("file:") or Path(name).exists():
            return None
        return name

    # --- the table ----------------------------------------------------------------------------------------------------

    catalogue = SQLiteCatalogue
    options = {"with_rowid": False}
    many_programs = ("PRAGMA journal_mode=WAL",)  # one writer at a time either way, but readers do not stop it

    @classmethod
    def check_schema(cls, schema: str | None, connection: Connection | None, create: bool) -> None:
        if connection is None:
            is_there = not create or schema == "main"
        else:
            is_there = schema in inspect(connection).get_schema_names()
        if schema is not None and not is_there:
            raise ValueError(
                f"SQLite cannot create the schema {schema}: its schemas are files that a connection has attached. Leave "
                f"the schema out, and give the URL of the file; or, in a program, attach it under that name on connect"
            )

    folds_indexes = True

    @classmethod
    def spelled(cls, connection: Connection, table: str, schema: str | None) -> tuple[str, str | None]:
        # Statements and pragmas ignore capitals; the names of indexes and SQLAlchemy's look at a primary key do not.
        inspector = inspect(connection)
        if not inspector.has_table(table, schema=schema):
            return table, schema
        names = inspector.get_table_names(schema)
        return next((name for name in names if name.lower() == table.lower()), table), schema

    # --- migrations ---------------------------------------------------------------------------------------------------

    upgrade_options = {}  # SQLite knows no READ COMMITTED, and BEGIN IMMEDIATE shows the latest
    transactional_ddl = True  # Alembic thinks of the driver, which cannot; the database can

    @classmethod
    @contextmanager
    def upgrading(cls, connection: Connection, table: str, schema: str | None, wait: int) -> Iterator[None]:
        before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()

        def put_back() -> None:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")
            connection.rollback()

        with lent(connection, put_back):
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {wait * 1000}")
            connection.rollback()
            with connection.begin():
                if inside(connection.connection.driver_connection):
                    # An engine that begins explicitly has just begun, but not for writing.
                    connection.exec_driver_sql("ROLLBACK")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield


def inside(driver: object) -> bool:
    """Say whether a driver's connection has begun a transaction."""
    return bool(getattr(driver, "in_transaction", False))
