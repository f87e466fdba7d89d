"""How a catalogue is asked, and how what it says is put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy import table as table_named
from sqlalchemy.exc import DBAPIError

from ...model import Finding, Level

RUN_TWICE: Final = "Key and effect are lost together, and a retry runs: somebody was told that it had worked"
ISOLATION: Final = "isolation level"
LEVELS: Final = (
    "the library is right at every level; at this one more of its transactions are begun again, replays too. "
    "isolation_level= of transactional chooses another one for a function"
)


def good(about: str, found: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(about, Level.GOOD, found)


def note(about: str, found: str, cure: str | None = None) -> Finding:
    """Return a finding that breaks nothing."""
    return Finding(about, Level.NOTE, found, cure)


def mend(about: str, found: str, cure: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding(about, Level.MEND, found, cure)


def asked(connection: Connection, sql: str, values: Mapping[str, Any] | None = None) -> Sequence[Any] | None:
    """Return the rows of a question, or ``None`` where this role or this server has no answer."""
    try:
        with connection.begin_nested():  # or the next question would find a dead transaction
            return connection.execute(text(sql), dict(values or {})).all()
    except DBAPIError:
        return None


def first(connection: Connection, sql: str, values: Mapping[str, Any] | None = None) -> Any:
    """Return the first column of the first row of a question, or ``None``."""
    rows = asked(connection, sql, values)
    return rows[0][0] if rows else None


def quoted(connection: Connection, table: str, schema: str | None) -> str:
    """Return the name of a table as a statement takes it."""
    return connection.dialect.identifier_preparer.format_table(table_named(table, schema=schema))


def rights(has: Mapping[str, bool]) -> Finding:
    """Judge what a role may do with the table."""
    lacks = [right for right, is_there in has.items() if not is_there]
    cure = "Run this as the application's role, or give it what `idemtable db sql --grants` prints"
    if set(lacks) - {"DELETE"}:
        return mend("grants", f"this role may not {', '.join(lacks)}, and a call needs SELECT, INSERT and UPDATE", cure)
    if lacks:
        return note("grants", "SELECT, INSERT and UPDATE, which calls need; not DELETE, which purge and forget need")
    return good("grants", "SELECT, INSERT, UPDATE and DELETE")
