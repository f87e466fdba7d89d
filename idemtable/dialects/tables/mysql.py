"""The table on MySQL and MariaDB: types, rights, flaws, and how migrations take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select, text
from sqlalchemy import table as table_named
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError

from ...errors import SchemaError
from ..catalogue.mysql import MySQLCatalogue
from ..definition import Definition, Job, Types
from ..words import Fault, lent

if TYPE_CHECKING:
    from sqlalchemy import Connection, Inspector
    from sqlalchemy.types import TypeEngine

# Not SHOW CREATE TABLE, which is what SQLAlchemy reads: in modes that speak for other databases (ANSI, and of MariaDB's
# ORACLE or MSSQL) it leaves these two out. MariaDB's view takes names in upper and in lower case for one.
_OPTIONS: Final = text("""SELECT engine, table_collation FROM information_schema.tables
    WHERE table_name = :table AND table_schema = COALESCE(:schema, DATABASE())
    ORDER BY CAST(table_name AS BINARY) = CAST(:table AS BINARY) DESC LIMIT 1""")
# Of 0 "Keys" and "keys" are two tables; of 1 one, which is kept as "keys"; of 2 one, which is kept as it was made.
_CASING: Final = "SELECT @@lower_case_table_names"


class MySQLTable(Definition):
    """What `MySQL` says of the table."""

    catalogue = MySQLCatalogue
    types = Types(
        id=mysql.BINARY(16),
        binary=mysql.BINARY,
        blob=mysql.LONGBLOB(),
        time=mysql.DATETIME(fsp=6),  # without fsp MySQL drops the fraction of a second
    )
    options = {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}

    @classmethod
    def schemas(cls, inspector: Inspector) -> list[str | None]:
        return [None]  # each is a database, and the server's others are somebody else's

    @classmethod
    def grants(cls, job: Job, role: str, table: str, schema: str | None) -> list[str]:
        words = mysql.dialect().identifier_preparer
        name, at, host = role.partition("@")
        who = f"'{name}'@'{host}'" if at else f"'{name}'"  # a role of MariaDB's has no host
        keys, version = (words.format_table(table_named(one, schema=schema)) for one in (table, f"{table}_version"))
        migrates = job is Job.MIGRATE  # CREATE among them lets a table be named that is not there yet
        return [
            f"GRANT {job.rights}{', CREATE, ALTER, INDEX, DROP' if migrates else ''} ON {keys} TO {who}",
            f"GRANT SELECT{', INSERT, DELETE, CREATE, DROP' if migrates else ''} ON {version} TO {who}",
        ]

    @classmethod
    def column_flaw(cls, found: TypeEngine[Any], wanted: TypeEngine[Any]) -> str | None:
        return None if getattr(found, "fsp", 6) == getattr(wanted, "fsp", 6) else "has no microseconds"

    @classmethod
    def table_flaws(cls, connection: Connection, table: str, schema: str | None) -> list[str]:
        engine, collation = connection.execute(_OPTIONS, {"table": table, "schema": schema}).first() or ("", "")
        found = {"engine": engine, "default charset": str(collation).partition("_")[0]}
        wanted = {"engine": cls.options["engine"], "default charset": cls.options["charset"]}
        return [f"{what} is not {value}" for what, value in wanted.items() if found[what] != value]

    folds_indexes = True

    @classmethod
    def spelled(cls, connection: Connection, table: str, schema: str | None) -> tuple[str, str | None]:
        kept = table.lower(), schema and schema.lower()
        is_told = kept == (table, schema) or connection.exec_driver_sql(_CASING).scalar() != 1
        return (table, schema) if is_told else kept

    time_limits = {1969: "max_statement_time", 3024: "max_execution_time"}

    # --- migrations ---------------------------------------------------------------------------------------------------

    changing = 1684  # "was skipped since its definition is being modified by concurrent DDL statement"
    before_ddl = (
        "SET @idemtable_lock_wait = @@SESSION.lock_wait_timeout",
        "SET SESSION lock_wait_timeout = 10",
    )
    after_ddl = ("SET SESSION lock_wait_timeout = @idemtable_lock_wait",)

    @classmethod
    @contextmanager
    def upgrading(cls, connection: Connection, table: str, schema: str | None, wait: int) -> Iterator[None]:
        place = f"{schema or connection.exec_driver_sql('SELECT database()').scalar()}.{table}"
        if connection.exec_driver_sql(_CASING).scalar():
            place = place.lower()
        # The names of locks are the server's, not the database's, and MySQL takes 64 characters.
        lock = "idemtable-" + sha256(place.encode()).hexdigest()[:48]
        got = connection.execute(select(func.get_lock(lock, wait))).scalar()
        connection.rollback()
        if not got:
            raise SchemaError(f"another program has been upgrading for more than {wait} seconds; run the command again")

        def release() -> None:
            connection.execute(select(func.release_lock(lock)))
            connection.rollback()

        with lent(connection, release), connection.begin():
            yield

    @classmethod
    def unreadable(cls, connection: Connection, table: str, schema: str | None) -> bool:
        # A role without any right to a table is not told whether it is there, and SQLAlchemy's own look would fail.
        look = select(text("1")).select_from(table_named(table, schema=schema)).limit(0)
        try:
            connection.execute(look, execution_options={"skip_user_error_events": True})
        except DBAPIError as error:
            from ..mysql import MySQL  # which takes this table for its own

            return MySQL.numbered(error) is Fault.DENIED
        return False
