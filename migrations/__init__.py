"""The table's Alembic revisions, ``idemtable.migrations`` once installed, and what all of them do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa
from alembic import op

from idemtable.dialects import named
from idemtable.differences import index_names
from idemtable.schema import recognised


@contextmanager
def guarded(table: str, schema: str | None) -> Iterator[frozenset[str] | None]:
    """Run one step's DDL under a lock time-out and never on a table that is not ours.

    Yields the names of what is there already, the table, its indexes and, as ``table.column``, its columns; ``None``
    offline, where nobody knows.
    """
    database = named(op.get_context().dialect.name)
    there: frozenset[str] | None = None
    if not op.get_context().as_sql:
        recognised(op.get_bind(), table, schema)
        inspector = sa.inspect(op.get_bind())
        there = frozenset()
        if inspector.has_table(table, schema=schema):
            columns = (f"{table}.{column['name']}" for column in inspector.get_columns(table, schema=schema))
            there = frozenset({table, *index_names(op.get_bind(), table, schema), *columns})
    _execute(database.before_ddl)
    try:
        yield there
    except BaseException:
        with suppress(Exception):  # on PostgreSQL the transaction is dead, and the setting dies with it
            _execute(database.after_ddl)
        raise
    _execute(database.after_ddl)


def _execute(statements: tuple[str, ...]) -> None:
    for statement in statements:
        op.execute(statement)
