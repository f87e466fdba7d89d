"""SQLite: one writer at a time, and a driver that must be kept from beginning transactions by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import SingletonThreadPool, StaticPool, event, false, update
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from ..errors import SessionNotUsableError
from .base import Dialect
from .batches.sqlite import SQLiteBatches
from .definition import Driver
from .fragments import COLUMNS, EXPIRED_WHERE, LASTING, VALUES
from .origin import root
from .purging import Swept
from .statement import Answer, is_listened_to, send
from .tables.sqlite import SQLiteTable, inside
from .timeout import begin_to_write, busy_timeout, waiting
from .words import Fault, Look, asks_autocommit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, Table
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

_IMMEDIATE: Final = "idemtable_immediate"
"""Execution option of a connection that is to begin with the write lock: how many milliseconds to wait for it."""
_wanted: Final[ContextVar[int | None]] = ContextVar("idemtable_immediate", default=None)
"""The same for a session's connection, whose options are the program's."""


class _Immediately:
    # No generator: each call enters one, and a generator's way in and out takes four times as long.
    __slots__ = ("_token", "_wait")

    def __init__(self, wait: int) -> None:
        self._wait = wait

    def __enter__(self) -> None:
        self._token = _wanted.set(self._wait)

    def __exit__(self, *raised: object) -> None:
        _wanted.reset(self._token)


_ATTACHED: Final = "idemtable_attached"
"""Where a driver's connection keeps what was found when it was first looked at."""
_NO_SAVEPOINT: Final = -1
"""Our own: SQLite has no number for it but that of a wrong statement."""


def configure_sqlite(engine: Engine | Any) -> None:
    """Make every transaction of a SQLite engine begin explicitly, so that savepoints and ROLLBACK undo all they should.

    In the driver's default mode a SAVEPOINT that comes before the first write is the transaction: its RELEASE commits,
    and the outer ROLLBACK finds nothing to undo. ``IdemTable(engine)`` does this by itself; an engine whose sessions are
    handed to `join` or `claim` of a table bound elsewhere needs it.

    Args:
        engine: an ``Engine`` or ``AsyncEngine`` for SQLite. Connections pooled earlier are covered too. Doing it twice
            is harmless.

    Raises:
        ValueError: the engine is for another database.
    """
    engine = root(getattr(engine, "sync_engine", engine))
    if not isinstance(engine.dialect, SQLiteDialect):
        raise ValueError(f"configure_sqlite takes an engine for SQLite, not for {engine.dialect.name}")
    if not event.contains(engine, "begin", _begin):
        event.listen(engine, "begin", _begin)
        event.listen(engine, "handle_error", _begin_again)
        event.listen(engine, "handle_error", _tell_the_late)
        event.listen(engine, "invalidate", _let_go)


def _let_go(dbapi_connection: Any, record: object, error: BaseException | None) -> None:
    # Before it is closed because a call was cancelled or interrupted. SQLite keeps a closed connection alive, and its
    # write lock held against everybody, for as long as the cursor of a half-read SELECT lives, and the error's traceback
    # holds that. A rollback ends it now.
    raw = getattr(dbapi_connection, "driver_connection", dbapi_connection)
    if isinstance(raw, sqlite3.Connection):
        with suppress(sqlite3.Error):
            raw.rollback()
    else:
        # Not awaited: its thread may be waiting for the lock itself. It gets there first, the close comes behind it.
        with suppress(RuntimeError):  # no loop is running
            asyncio.get_running_loop().create_task(raw.rollback()).add_done_callback(_seen)


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _begin(connection: Connection) -> None:
    if asks_autocommit(connection):
        return
    driver: Any = connection.connection.dbapi_connection
    raw = connection.connection.driver_connection
    if _HAS_MODES and (mode := _mode(raw)) is not None:
        raise SessionNotUsableError(
            f"this SQLite engine was made with connect_args={{'autocommit': {mode}}}, in which BEGIN does not begin what "
            f"COMMIT commits: leave the argument out"
        )
    # At each BEGIN and not at connect: this covers connections that were pooled before, and SQLAlchemy sets the mode
    # back whenever an isolation level was chosen for one transaction.
    if driver.isolation_level is not None:
        driver.isolation_level = None
    begun, heard = inside(raw), is_listened_to(connection)
    wait = connection.get_execution_options().get(_IMMEDIATE, _wanted.get())
    if wait is None:
        if not begun:
            send(connection, "BEGIN", heard=heard)
        return
    if begun:  # by a listener of the application's own, with nothing in it yet
        send(connection, "ROLLBACK", heard=heard)
    begin_to_write(connection, wait, heard)


_HAS_MODES: Final = hasattr(sqlite3.Connection, "autocommit")


def _mode(raw: Any) -> bool | None:
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
        raw, driver = connection.connection.driver_connection, connection.connection.dbapi_connection
        explicit = driver.isolation_level is None and _mode(raw) is None  # the driver begins nothing by itself
        if explicit and not inside(raw):
            with suppress(Exception):
                cursor = connection.connection.cursor()
                cursor.execute("BEGIN")
                cursor.close()


_LATE: Final = -2
"""Our own: the number by which SQLite says that a lock was waited for in vain is also that of what no wait can help."""


def _tell_the_late(context: Any) -> None:
    # Who has read is refused the write lock at once while somebody has it, who may be waiting for the reader to end. What
    # tells that from a wait in vain is a checkpoint, which SQLite refuses to a transaction that has read.
    connection, error = context.connection, context.original_exception
    if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY or (context.statement or "COMMIT") == "COMMIT":
        return
    if connection is not None and not connection.invalidated and inside(connection.connection.driver_connection):
        try:
            with closing(connection.connection.cursor()) as cursor:
                cursor.execute("PRAGMA wal_checkpoint")
        except sqlite3.Error as refusal:
            error.idemtable_late = refusal.sqlite_errorcode == sqlite3.SQLITE_LOCKED


def _attached_in_wal(connection: Connection) -> str | None:
    """Return the name of an attached database in WAL mode, if there is one."""
    for _, name, _ in send(connection, "PRAGMA database_list"):
        quoted = str(name).replace('"', '""')
        if name not in ("main", "temp") and send(connection, f'PRAGMA "{quoted}".journal_mode').scalar() == "wal":
            return str(name)
    return None


class SQLite(SQLiteTable, Dialect):
    """SQLite 3.31 and later, through sqlite3 and aiosqlite."""

    names = ("sqlite",)
    batches = SQLiteBatches
    drivers = (Driver("pysqlite", "sqlite3"), Driver("aiosqlite", "aiosqlite", 'pip install "idemtable[asyncio]"'))

    is_file = True
    reads_in_place = True
    busy = "the database is busy: another connection is writing"

    clocks, moment = ("'now'",), "'{}'"
    # Text, with six digits as SQLAlchemy writes them, so that comparing text compares time.
    now = "strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now')"
    later = "strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now', (:ttl / 1000000.0) || ' seconds')"
    past = "strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now', '-60 seconds')"
    expires = f"""CASE WHEN {LASTING} THEN strftime('%Y-%m-%d %H\\:%M\\:%f000',
            julianday(expires_at) + julianday(completed_at) - julianday(created_at)) ELSE expires_at END"""

    faults = {
        sqlite3.SQLITE_BUSY: Fault.BUSY,
        _LATE: Fault.BUSY,
        sqlite3.SQLITE_LOCKED: Fault.BUSY,
        sqlite3.SQLITE_BUSY_SNAPSHOT: Fault.RESTART,  # read first, and somebody else has written since
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Fault.DUPLICATE,
        sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
        # Our statements never change, so "SQL logic error" from one of them means the table.
        sqlite3.SQLITE_ERROR: Fault.NO_TABLE,
        _NO_SAVEPOINT: Fault.DEAD,
    }

    stale = (sqlite3.SQLITE_BUSY_SNAPSHOT, _LATE)

    variables = 32_766 if sqlite3.sqlite_version_info >= (3, 32) else 999

    # The write lock is held, so nothing comes between the look for a conflict and the row.
    CLAIM = f"INSERT INTO {{table}} ({COLUMNS}) VALUES ({VALUES}) ON CONFLICT (id) DO NOTHING"
    # Here alone nothing is left behind of what was deleted, and each batch may begin at the beginning.
    EXPIRED = f"DELETE FROM {{table}} WHERE id IN (SELECT id FROM {{table}} WHERE {EXPIRED_WHERE} LIMIT :batch)"

    def __init__(self, dialect: SQLAlchemyDialect, table: str, schema: str | None) -> None:
        super().__init__(dialect, table, schema)
        # Changes no row, and takes the write lock all the same.
        self._lock = self.statement("UPDATE {table} SET status = status WHERE id IS NULL")

    def time(self, value: Any) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value).replace(tzinfo=UTC)

    def claim(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        return self._claim(connection, values).rowcount == 1

    def find(self, connection: Connection, values: Mapping[str, Any], look: Look) -> Answer:
        if look is not Look.ASIDE:  # elsewhere the write lock is held, or nobody has said how long to wait
            return super().find(connection, values, look)
        return waiting(connection, round(values["wait"] * 1000), None, partial(self._find, connection, values))

    def delete_expired(self, connection: Connection, batch: int, rest: Any, *, careful: bool) -> Swept:
        deleted = self.statement(self.EXPIRED)(connection, {"batch": batch}).rowcount
        return Swept(deleted, () if deleted == batch else None)

    def table_bytes(self, connection: Connection, table: str, schema: str | None) -> int | None:
        try:
            sql = "SELECT sum(pgsize) FROM dbstat WHERE name IN (:table, :index)"
            size = self.statement(sql)(connection, {"table": table, "index": f"ix_{table}_expires_at"}).scalar()
        except Exception:  # SQLite can be built without dbstat
            return None
        return None if size is None else int(size)

    def prepare(self, engine: Engine) -> None:
        super().prepare(engine)
        configure_sqlite(engine)

    def begin_options(self, wait: float) -> dict[str, Any]:
        return {_IMMEDIATE: round(wait * 1000)}

    def beginning(self, wait: float) -> AbstractContextManager[None]:
        return _Immediately(round(wait * 1000))

    def occupied(self, engine: Engine) -> str | None:
        pool, shared = engine.pool, None
        if isinstance(pool, StaticPool):
            shared = pool.__dict__.get("connection")  # made at first use
        elif isinstance(pool, SingletonThreadPool):
            shared = getattr(pool._conn, "current", lambda: None)()
        if shared is None or not inside(getattr(shared, "driver_connection", None)):
            return None
        return (
            f"its {type(pool).__name__} gives everybody one connection, and another transaction is at work in it, which "
            f"this one would end. Make the engine with poolclass=sqlalchemy.QueuePool or NullPool, or end that one first"
        )

    def join(self, connection: Connection, wait: float) -> None:
        # A deferred transaction that reads first can be refused its first write at once, however long it may wait.
        with busy_timeout(connection, round(wait * 1000)):
            self._lock(connection)

    def unusable(self, connection: Connection) -> str | None:
        if asks_autocommit(connection):
            return "it is in AUTOCOMMIT: nothing would be atomic. Use an engine or session without that isolation level"
        pooled = connection.connection
        driver: Any = pooled.dbapi_connection
        raw = pooled.driver_connection
        if _HAS_MODES and (mode := _mode(raw)) is not None:
            return f"its engine was made with connect_args={{'autocommit': {mode}}}: leave the argument out"
        if driver.isolation_level is not None or not inside(raw):
            return (
                "its SQLite engine lets the driver begin transactions, which loses atomicity with savepoints. "
                "Call idemtable.configure_sqlite(engine) once, where the engine is made"
            )
        known = pooled.info
        if _ATTACHED not in known:
            known[_ATTACHED] = _attached_in_wal(connection)
        if name := known[_ATTACHED]:
            return (
                f"the attached database {name} is in WAL mode, where SQLite commits file by file: a key could be kept "
                f"whose effect is not. Run PRAGMA {name}.journal_mode = DELETE, or keep both in one file"
            )
        return None

    def commits_by_itself(self, connection: Connection) -> bool:
        return _mode(connection.connection.driver_connection) is not None

    def in_transaction(self, connection: Connection) -> bool:
        return inside(connection.connection.driver_connection)

    def cut(self, connection: Connection) -> None:
        raw = connection.connection.driver_connection
        if not isinstance(raw, sqlite3.Connection):
            super().cut(connection)  # aiosqlite closes it behind what is under way
            return
        # Closed under a statement of another thread it would take the process down; and what that thread writes after the
        # ROLLBACK would be committed by itself.
        connection.connection.invalidate(soft=True)
        raw.execute("PRAGMA query_only = ON")

    def unlockable(self, connection: Connection) -> str | None:
        # Which of the two begins the transaction, driver or listener, makes no difference to a write lock.
        return self.unusable(connection) if asks_autocommit(connection) else None

    @contextmanager
    def waiting(self, connection: Connection, wait: float | None) -> Iterator[None]:
        if wait is None:
            yield
            return
        with busy_timeout(connection, round(wait * 1000)):
            yield

    def lock_writes(self, connection: Connection, table: Table) -> None:
        # There is no FOR UPDATE: one transaction writes at a time, and this UPDATE of no row makes it the caller's.
        column = next(iter(table.primary_key))
        connection.execute(update(table).values({column: column}).where(false()))

    def lock_name(self, connection: Connection, id: UUID, wait: float | None, *, alone: bool) -> bool:
        with self.waiting(connection, wait):
            self._lock(connection)
        return True

    @classmethod
    def code(cls, error: BaseException) -> Any:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such savepoint"):
            return _NO_SAVEPOINT
        if getattr(error, "idemtable_late", False):
            return _LATE
        return code if code is None or code in cls.faults else code & 0xFF
