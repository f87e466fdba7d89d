"""How a statement travels: in the driver's own words, by the driver's own cursor.

Of the 530 microseconds of Python in a transaction through SQLAlchemy Core, 320 are Core's. `exec_driver_sql` spares the
compiler and still costs 15 (SQLite) to 35 (psycopg) microseconds a statement beyond the cursor's own; with three
statements a call that was most of what the library took. So the cursor is used directly, unless somebody listens:
with ``echo``, or with cursor events (tracing, counters), the statement goes through SQLAlchemy and shows there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from .leftover import close_cursor
from .origin import note_own

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect


class Answer:
    """What a statement gave: its rows, read to the end, and how many it touched."""

    __slots__ = ("rowcount", "rows")

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self.rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def first(self) -> Any:
        """Return the first row, or ``None``."""
        return self.rows[0] if self.rows else None

    def scalar(self) -> Any:
        """Return the first column of the first row, or ``None``."""
        return self.rows[0][0] if self.rows else None


def send(
    connection: Connection, sql: str, parameters: Any = (), *, heard: bool | None = None, written: str | None = None
) -> Answer:
    """Run a statement on a connection.

    Args:
        connection: where.
        sql: the statement, in the driver's words.
        parameters: of it.
        heard: what `is_listened_to` has said of the connection, if it was asked just now.
        written: the statement with its parameters in it, to be sent in its place where nobody listens. Errors do not
            show it: what SQLAlchemy was told to hide are parameters.

    Raises:
        sqlalchemy.exc.DBAPIError: as SQLAlchemy itself would, with a lost connection marked and taken out of the pool.
    """
    if written is None and (is_listened_to(connection) if heard is None else heard):
        try:
            result = connection.exec_driver_sql(sql, parameters or None)
            return Answer(result.fetchall() if result.returns_rows else (), result.rowcount)
        except Exception as error:
            _note_own(connection, error, sql)
            raise
    cursor = None
    try:
        cursor = connection.connection.dbapi_connection.cursor()  # type: ignore[union-attr]  # the driver's own
        if written is None:
            cursor.execute(sql, parameters)
        else:
            cursor.execute(written)
        answer = Answer(cursor.fetchall() if cursor.description is not None else (), cursor.rowcount)
        cursor.close()
        return answer
    except BaseException as error:
        fail(connection, error, sql, parameters, cursor)


def fail(
    connection: Connection, error: BaseException, sql: str | None, parameters: Any, cursor: Any = None
) -> NoReturn:
    """Raise what a driver raised as SQLAlchemy would; only while it is being handled.

    Args:
        connection: that it came from.
        error: the driver's, or what came in the middle of its work.
        sql: the statement, if it was one's.
        parameters: of the statement.
        cursor: to be closed.
    """
    dbapi = connection.dialect.dbapi
    if cursor is not None and (dbapi is None or not isinstance(error, dbapi.Error)):  # else SQLAlchemy does
        close_cursor(cursor)
    if isinstance(error, Exception) and dbapi is not None and not isinstance(error, dbapi.Error):
        # Somebody else's, such as the time limit that a signal handler raises: it came in the middle of the driver's
        # work, and what the server answers next is the answer to this statement.
        connection.invalidate(error)
        raise error
    _note_own(connection, error, sql or "")
    # Not public, and the same in 2.0 and 2.1, which is what pyproject allows. What it does must be done for every
    # error: wrap it, ask the dialect whether the connection is lost, invalidate it and all that are older.
    connection._handle_dbapi_exception(error, sql, parameters, cursor, None)
    raise error  # never reached: the line above raises


def _note_own(connection: Connection, error: BaseException, sql: str) -> None:
    dbapi = connection.dialect.dbapi
    databases = (DBAPIError,) if dbapi is None else (DBAPIError, dbapi.Error)
    note_own(error, sql, lambda one: isinstance(one, databases))


def disbelieve(connection: Connection, sql: str) -> NoReturn:
    """Give up a connection whose answer cannot be the one to a statement, as one that was lost.

    Where an exception came between another statement and its answer, the next one reads that, and the one after it reads
    the next one's.
    """
    error = RuntimeError("the answer on this connection is not the one to the statement")
    connection.invalidate(error)
    raise OperationalError(sql, None, error, connection_invalidated=True)


def is_listened_to(connection: Connection) -> bool:
    """Say whether somebody wants to see a connection's statements."""
    if connection._echo:
        return True
    engine = connection.engine
    if engine._has_events:
        before, after = engine.dispatch.before_cursor_execute, engine.dispatch.after_cursor_execute
        # What their __bool__ asks, without the two calls.
        if before.listeners or before.parent_listeners or after.listeners or after.parent_listeners:
            return True
    return connection._has_events and (
        hears(connection, "before_cursor_execute") or hears(connection, "after_cursor_execute")
    )


def hears(connection: Connection, event: str) -> bool:
    """Say whether somebody listens to an event of a connection's: on it alone, or on its engine."""
    engine = connection.engine
    if engine._has_events and getattr(engine.dispatch, event):
        return True
    if not connection._has_events:
        return False
    try:
        # Past its __getattr__, which would put its listeners and the engine's together where nobody has asked for them yet:
        # 3 microseconds for each new connection, and a SQLite engine always has a listener, the library's own for BEGIN.
        return bool(object.__getattribute__(connection.dispatch, event))
    except AttributeError:
        return False


class Statement:
    """One statement of the library, compiled once for a driver."""

    def __init__(self, sql: str, dialect: SQLAlchemyDialect) -> None:
        compiled = text(sql).compile(dialect=dialect)
        self.sql = str(compiled)
        order: list[str] = getattr(compiled, "positiontup", None) or []
        self._ordered: Callable[[Mapping[str, Any]], Any] | None = None
        if order:
            # itemgetter returns the value itself where there is one name, and a tuple where there are more.
            self._ordered = itemgetter(*order) if len(order) > 1 else lambda values: (values[order[0]],)

    def __call__(self, connection: Connection, values: Mapping[str, Any] | None = None) -> Answer:
        """Run it with values by name; more of them than it names are left alone."""
        if values is None:
            return send(connection, self.sql)
        return send(connection, self.sql, values if self._ordered is None else self._ordered(values))

    def text(self, values: Mapping[str, Any]) -> str | None:
        """Return the statement with values written into it; ``None`` where the driver is to do that."""
        return None
