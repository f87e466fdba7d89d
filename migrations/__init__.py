"""The table's Alembic revisions, ``idemtable.migrations`` once installed, and what all of them do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import sqlalchemy as sa
from alembic import op

from idemtable.schema import recognised

# What DDL may wait for locks, and last how it was before; statements that also make sense in a printed script.
_DDL_WAIT: Final[dict[str, tuple[str, ...]]] = {
    "postgresql": (
        "SELECT set_config('idemtable.lock_timeout', current_setting('lock_timeout'), true)",
        "SET LOCAL lock_timeout = '10s'",
        "SELECT set_config('lock_timeout', nullif(current_setting('idemtable.lock_timeout', true), ''), true)",
    ),
    "mysql": (
        "SET @idemtable_lock_wait = @@SESSION.lock_wait_timeout",
        "SET SESSION lock_wait_timeout = 10",
        "SET SESSION lock_wait_timeout = @idemtable_lock_wait",
    ),
}
_DDL_WAIT["mariadb"] = _DDL_WAIT["mysql"]


@contextmanager
def guarded(table: str, schema: str | None) -> Iterator[frozenset[str] | None]:
    """Run one step's DDL under a lock time-out and never on a table that is not ours.

    Yields the names of the table and its indexes that are there already; ``None`` offline, where nobody knows.
    """
    there: frozenset[str] | None = None
    if not op.get_context().as_sql:
        recognised(op.get_bind(), table, schema)
        inspector = sa.inspect(op.get_bind())
        there = frozenset()
        if inspector.has_table(table, schema=schema):
            indexes = (index["name"] for index in inspector.get_indexes(table, schema=schema))
            there = frozenset({table, *(name for name in indexes if name)})
    *before, after = _DDL_WAIT.get(op.get_context().dialect.name, ("",))
    for statement in before:
        op.execute(statement)
    try:
        yield there
    except BaseException:
        with suppress(Exception):  # on PostgreSQL the transaction is dead, and the setting dies with it
            op.execute(after)
        raise
    if after:
        op.execute(after)
