"""How transactions begin on SQLite: when they are told to, and with the write lock where one is going to write."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from ..errors import SessionNotUsableError
from ..model import MARK
from .leftover import roll_back
from .origin import root
from .statement import is_listened_to, send
from .tables.sqlite import inside
from .timeout import begin_to_write
from .words import asks_autocommit, driver_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

IMMEDIATE: Final = "idemtable_immediate"
"""Execution option of a connection that is to begin with the write lock: how many milliseconds to wait for it."""
_wanted: Final[ContextVar[int | None]] = ContextVar("idemtable_immediate", default=None)
"""The same for a session's connection, whose options are the program's."""


class Immediately:
    """Has the transaction of a session that begins inside begin with the write lock, waiting so many milliseconds."""

    # No generator: each call enters one, and a generator's way in and out takes four times as long.
    __slots__ = ("_token", "_wait")

    def __init__(self, wait: int) -> None:
        self._wait = wait

    def __enter__(self) -> None:
        self._token = _wanted.set(self._wait)

    def __exit__(self, *raised: object) -> None:
        _wanted.reset(self._token)


def configure_sqlite(engine: Engine | Any) -> None:
    """Make every transaction of a SQLite engine begin explicitly, so that savepoints and ROLLBACK undo all they should.

    In the driver's default mode a SAVEPOINT that comes before the first write is the transaction: its RELEASE commits,
    and the outer ROLLBACK finds nothing to undo. ``IdemTable(engine)`` does this by itself; an engine whose sessions are
    handed to `join` or `claim` of a table bound elsewhere needs it.

    Args:
        engine: an ``Engine`` or ``AsyncEngine`` for SQLite. Connections pooled earlier are covered too. Doing it twice
            is harmless.

    Raises:
        TypeError: it is no engine.
        ValueError: the engine is for another database.
    """
    sync = getattr(engine, "sync_engine", engine)
    if not isinstance(sync, Engine):
        raise TypeError(f"configure_sqlite takes an Engine or an AsyncEngine, not {engine!r}")
    engine = root(sync)
    if not isinstance(engine.dialect, SQLiteDialect):
        raise ValueError(f"configure_sqlite takes an engine for SQLite, not for {engine.dialect.name}")
    if not event.contains(engine, "begin", _begin):
        event.listen(engine, "begin", _begin)
        event.listen(engine, "handle_error", _begin_again)
        event.listen(engine, "handle_error", _tell_the_late)
        event.listen(engine, "invalidate", _let_go)


def _let_go(dbapi_connection: Any, record: object, error: BaseException | None) -> None:
    roll_back(getattr(dbapi_connection, "driver_connection", dbapi_connection))


def _begin(connection: Connection) -> None:
    if asks_autocommit(connection):
        return
    driver: Any = connection.connection.dbapi_connection
    raw = driver_of(connection)
    if (mode := mode_of(raw)) is not None:
        raise SessionNotUsableError(
            f"this SQLite engine was made with connect_args={{'autocommit': {mode}}}, in which BEGIN does not begin what "
            f"COMMIT commits: leave the argument out"
        )
    # At each BEGIN and not at connect: this covers connections that were pooled before, and SQLAlchemy sets the mode
    # back whenever an isolation level was chosen for one transaction.
    if driver.isolation_level is not None:
        driver.isolation_level = None
    begun, heard = inside(raw), is_listened_to(connection)
    wait = connection.get_execution_options().get(IMMEDIATE, _wanted.get())
    if wait is None:
        if not begun:
            send(connection, "BEGIN", heard=heard)
        return
    if begun:  # by a listener of the application's own, with nothing in it yet
        send(connection, "ROLLBACK", heard=heard)
    begin_to_write(connection, wait, heard)


_HAS_MODES: Final = hasattr(sqlite3.Connection, "autocommit")


def mode_of(raw: Any) -> bool | None:
    """Return the transaction mode of Python 3.12 and later that a connection is in; ``None`` for the usual one."""
    if not _HAS_MODES:
        return None
    raw = getattr(raw, "_conn", raw)  # aiosqlite's connection has one of sqlite3's inside
    mode = getattr(raw, "autocommit", None)
    return mode if isinstance(mode, bool) else None


def _begin_again(context: Any) -> None:
    # An error may have ended the transaction (a full disk, INSERT OR ROLLBACK), and SQLAlchemy does not know: whatever
    # follows would be committed statement by statement. In a new transaction it is undone with the rest, and a call finds
    # that its claim is gone.
    connection = context.connection
    if connection is None or context.is_disconnect or connection.closed or connection.invalidated:
        return
    if connection.in_transaction() and not asks_autocommit(connection):
        raw, driver = driver_of(connection), connection.connection.dbapi_connection
        explicit = driver.isolation_level is None and mode_of(raw) is None  # the driver begins nothing by itself
        if explicit and not inside(raw):
            with suppress(Exception):
                cursor = connection.connection.cursor()
                cursor.execute("BEGIN")
                cursor.close()


LATE: Final = -2
"""Our own: the number by which SQLite says that a lock was waited for in vain is also that of what no wait can help."""
_LATE: Final = f"{MARK}late__"


def _tell_the_late(context: Any) -> None:
    # Who has read is refused the write lock at once while somebody has it, who may be waiting for the reader to end. What
    # tells that from a wait in vain is a checkpoint, which SQLite refuses to a transaction that has read.
    connection, error = context.connection, context.original_exception
    if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY or (context.statement or "COMMIT") == "COMMIT":
        return
    if connection is not None and not connection.invalidated and inside(driver_of(connection)):
        try:
            with closing(connection.connection.cursor()) as cursor:
                cursor.execute("PRAGMA wal_checkpoint")
        except sqlite3.Error as refusal:
            setattr(error, _LATE, refusal.sqlite_errorcode == sqlite3.SQLITE_LOCKED)


def is_late(error: BaseException) -> bool:
    """Say whether an error refuses a lock that no wait could have had."""
    return getattr(error, _LATE, False)
