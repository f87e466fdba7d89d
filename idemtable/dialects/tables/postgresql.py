"""The table on PostgreSQL: types, rights, flaws, and how migrations take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, inspect, select, text
from sqlalchemy import table as table_named
from sqlalchemy.dialects import postgresql

from ...errors import SchemaError
from ..catalogue.asking import quoted
from ..catalogue.postgresql import PostgreSQLCatalogue
from ..definition import Definition, Job, Types

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.types import TypeEngine

_READABLE: Final = text("""SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = CAST(:table AS text) AND CASE
        WHEN CAST(:schema AS text) IS NOT NULL THEN n.nspname = CAST(:schema AS text)
        WHEN has_schema_privilege(n.oid, 'USAGE') THEN pg_table_is_visible(c.oid)
        ELSE n.nspname = ANY(string_to_array(replace(current_setting('search_path'), ' ', ''), ',')) END
    ORDER BY 1 DESC LIMIT 1""")
# TimescaleDB's tables among the latter.
_DIVIDED: Final = text("""SELECT c.relkind = 'p' OR EXISTS (SELECT 1 FROM pg_catalog.pg_inherits WHERE inhparent = c.oid)
    FROM pg_catalog.pg_class c WHERE c.oid = to_regclass(CAST(:name AS text))""")


class PostgreSQLTable(Definition):
    """What `PostgreSQL` says of the table."""

    catalogue = PostgreSQLCatalogue
    types = Types(id=postgresql.UUID(as_uuid=True), text=lambda length: postgresql.TEXT())

    @classmethod
    def check_schema(cls, schema: str | None, connection: Connection | None, create: bool) -> None:
        if schema is None or connection is None or create or inspect(connection).has_schema(schema):
            return
        raise SchemaError(
            f"the schema {schema} is missing. Run `idemtable db upgrade --schema {schema} --create-schema`, or call "
            f"`schema.upgrade(…, create_schema=True)` in a revision of your own"
        )

    @classmethod
    def unreadable(cls, connection: Connection, table: str, schema: str | None) -> bool:
        # Asked for and not tried: a refusal would end the transaction.
        return connection.execute(_READABLE, {"table": table, "schema": schema}).scalar() is False

    @classmethod
    def column_flaw(cls, found: TypeEngine[Any], wanted: TypeEngine[Any]) -> str | None:
        is_cut = isinstance(found, postgresql.TIMESTAMP) and found.precision not in (None, 6)
        return "has no microseconds" if is_cut else None

    @classmethod
    def table_flaws(cls, connection: Connection, table: str, schema: str | None) -> list[str]:
        if not connection.execute(_DIVIDED, {"name": quoted(connection, table, schema)}).scalar():
            return []
        return [
            "it is partitioned, or others inherit from it: a purge goes by the places of rows, which each of them counts"
        ]

    @classmethod
    def grants(cls, job: Job, role: str, table: str, schema: str | None) -> list[str]:
        words = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]
        who, where = words.quote(role).replace("%%", "%"), words.quote(schema or "public")
        if job is Job.MIGRATE:  # the tables that it makes are its own
            return [f"GRANT USAGE, CREATE ON SCHEMA {where} TO {who}"]
        keys, version = (words.format_table(table_named(one, schema=schema)) for one in (table, f"{table}_version"))
        return [
            f"GRANT USAGE ON SCHEMA {where} TO {who}",
            f"GRANT {job.rights} ON {keys} TO {who}",
            f"GRANT SELECT ON {version} TO {who}",
        ]

    time_limits = {"57014": "statement_timeout"}

    # --- migrations ---------------------------------------------------------------------------------------------------

    before_ddl = (
        "SELECT set_config('idemtable.lock_timeout', current_setting('lock_timeout'), true)",
        "SET LOCAL lock_timeout = '10s'",
    )
    after_ddl = (
        "SELECT set_config('lock_timeout', nullif(current_setting('idemtable.lock_timeout', true), ''), true)",
    )

    @classmethod
    @contextmanager
    def upgrading(cls, connection: Connection, table: str, schema: str | None, wait: int) -> Iterator[None]:
        with connection.begin():
            place = schema or connection.execute(select(func.current_schema())).scalar()  # where CREATE TABLE makes it
            number = int.from_bytes(sha256(f"idemtable.{place}.{table}".encode()).digest()[:8], signed=True)
            # Of the transaction, not of the session: it has to work behind PgBouncer.
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait}s'")
            connection.execute(select(func.pg_advisory_xact_lock(number)))
            yield
