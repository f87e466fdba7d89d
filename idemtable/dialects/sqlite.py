"""SQLite: one writer at a time. How its transactions begin stands in `explicit.py`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import false, update

from .base import Dialect
from .batches.sqlite import SQLiteBatches
from .definition import Driver
from .explicit import IMMEDIATE, LATE, Immediately, configure_sqlite, is_late, mode_of
from .fragments import COLUMNS, EXPIRED_WHERE, LASTING, VALUES
from .purging import Swept
from .statement import Answer, send
from .tables.sqlite import SQLiteTable, inside
from .timeout import busy_timeout, waiting
from .words import Fault, Look, asks_autocommit, driver_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, Table
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

_ATTACHED: Final = "idemtable_attached"
"""Where a driver's connection keeps what was found when it was first looked at."""
_NO_SAVEPOINT: Final = -1
"""Our own: SQLite has no number for it but that of a wrong statement."""


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
        LATE: Fault.BUSY,
        sqlite3.SQLITE_LOCKED: Fault.BUSY,
        sqlite3.SQLITE_BUSY_SNAPSHOT: Fault.RESTART,  # read first, and somebody else has written since
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: Fault.DUPLICATE,
        sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
        # Our statements never change, so "SQL logic error" from one of them means the table.
        sqlite3.SQLITE_ERROR: Fault.NO_TABLE,
        _NO_SAVEPOINT: Fault.DEAD,
    }

    stale = (sqlite3.SQLITE_BUSY_SNAPSHOT, LATE)

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
        return {IMMEDIATE: round(wait * 1000)}

    def beginning(self, wait: float) -> AbstractContextManager[None]:
        return Immediately(round(wait * 1000))

    def join(self, connection: Connection, wait: float) -> None:
        # A deferred transaction that reads first can be refused its first write at once, however long it may wait.
        with busy_timeout(connection, round(wait * 1000)):
            self._lock(connection)

    def unusable(self, connection: Connection) -> str | None:
        if asks_autocommit(connection):
            return "it is in AUTOCOMMIT: nothing would be atomic. Use an engine or session without that isolation level"
        pooled = connection.connection
        driver: Any = pooled.dbapi_connection
        raw = driver_of(connection)
        if (mode := mode_of(raw)) is not None:
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
        return mode_of(driver_of(connection)) is not None

    @classmethod
    def inside(cls, driver: Any) -> bool | None:
        return inside(driver)

    def give_up(self, connection: Connection, error: Exception) -> None:
        # A function has sent COMMIT as text, and begun again: to close the connection would lose a database in memory.
        root = connection.get_transaction()
        if root is not None and self.code(getattr(error, "orig", error)) == _NO_SAVEPOINT:
            with suppress(Exception):  # what is being raised matters more
                root.rollback()

    def cut(self, connection: Connection) -> None:
        raw = driver_of(connection)
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

    def lock_name(self, connection: Connection, id: bytes, wait: float | None, *, alone: bool) -> bool:
        with self.waiting(connection, wait):
            self._lock(connection)
        return True

    @classmethod
    def code(cls, error: BaseException) -> Any:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such savepoint"):
            return _NO_SAVEPOINT
        if is_late(error):
            return LATE
        return code if code is None or code in cls.faults else code & 0xFF
