"""MariaDB and MySQL through PyMySQL: several statements in one packet, and no waiting for what says nothing new.

MariaDB takes a block of statements as a single one, which decides by itself whether to come to COMMIT. MySQL does not:
there several statements travel together only on a connection that allows several in one packet, which PyMySQL forbids
unless it is told otherwise (``client_flag``). The library does not tell it: an application in which somebody finds a place
to inject is not to lose that guard for a round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from .statement import Statement, disbelieve, fail, is_listened_to
from .told import IN_TRANSACTION
from .words import driver_of, is_mariadb
from .written import line

if TYPE_CHECKING:
    from sqlalchemy import Connection

REFUSED: Final = (1644, 1690)
"""What the last statement's check fails with where it did not touch exactly one row: the SIGNAL of the block; among several
statements, which can have no SIGNAL, a sum that is too large in any ``sql_mode``. A subquery of two rows would do too, and
has MySQL plan a temporary table in each call: 60 microseconds of 2,200."""

BLOCK: Final = """BEGIN NOT ATOMIC {statement};
    IF ROW_COUNT() = 1 THEN COMMIT;
    ELSE SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1644, MESSAGE_TEXT = 'the row is not this claim''s own';
    END IF; END"""
SEVERAL: Final = """{statement};
    SET @idemtable_kept = ~0 + (ROW_COUNT() <> 1); COMMIT"""

_MULTI_STATEMENTS: Final = 1 << 16
_ASKED: Final = 4711
"""Comes back where an answer is the one to what was asked."""
_LOST: Final = (2013, "the answer on this connection is not the one to COMMIT")


class Along:
    """What result and COMMIT travel by, where PyMySQL sends them and nobody listens."""

    def __init__(self, statement: Callable[[str], Statement], store: str) -> None:
        self._block = statement(BLOCK.format(statement=store))
        self._several = statement(SEVERAL.format(statement=store))

    def __call__(self, connection: Connection) -> Callable[[Connection, Mapping[str, Any]], None] | None:
        """Return what stores and commits; ``None`` where they go one after the other."""
        if is_mariadb(connection):
            return self._in_block if _is_unheard_pymysql(connection) else None
        return self._together if takes_several(connection) else None

    def _in_block(self, connection: Connection, values: Mapping[str, Any]) -> None:
        self._block(connection, values)
        _note(connection, self._block)

    def _together(self, connection: Connection, values: Mapping[str, Any]) -> None:
        send_several(connection, self._several, values, (1, 0, 0))
        _note(connection, self._several)


def takes_several(connection: Connection) -> bool:
    """Say whether a connection of MySQL's takes several statements at once, and nobody wants to see them one by one."""
    if is_mariadb(connection) or not _is_unheard_pymysql(connection):
        return False
    driver: Any = driver_of(connection)
    return bool(driver.client_flag & _MULTI_STATEMENTS)


def _is_unheard_pymysql(connection: Connection) -> bool:
    return line(connection) is not None and not is_listened_to(connection)


def send_several(
    connection: Connection, statement: Statement, values: Mapping[str, Any], touches: tuple[int, ...]
) -> None:
    """Run several statements, of which the first that fails keeps the server from doing the others.

    Where `takes_several` says so.

    Args:
        connection: where.
        statement: all of them.
        values: of theirs.
        touches: how many rows each of them touches. Other answers are not theirs.

    Raises:
        sqlalchemy.exc.DBAPIError: as SQLAlchemy itself would.
    """
    driver, cursor = line(connection), None
    try:
        if (text := statement.text(values)) is not None:
            touched = [driver.query(text)]
            while driver._result.has_next:
                touched.append(driver.next_result())
        else:
            cursor = driver.cursor()
            touched = [cursor.execute(statement.sql, values)]
            while cursor.nextset():
                touched.append(cursor.rowcount)
            cursor.close()
    except BaseException as error:
        fail(connection, error, statement.sql, values, cursor)
    if tuple(touched) != touches:
        disbelieve(connection, statement.sql)


class Ends:
    """How a transaction of the library's own ends through PyMySQL: by one COMMIT or ROLLBACK, and none that does nothing.

    The pool has each connection that comes back roll back, SQLAlchemy has one commit whose COMMIT has travelled with the
    result, and PyMySQL sends that and waits. It is not sent where the last answer of the server was that to a COMMIT or
    ROLLBACK of this transaction, and says that no other is open: with ``completion_type`` one is begun at once, and whoever
    listens to the pool or the session may have sent something since.
    """

    __slots__ = ("_driver", "_last")

    def __init__(self, driver: Any) -> None:
        # Not the pool's wrapper, which holds this: only the collector of cycles would find the two.
        self._driver = driver
        self._last: Any = None

    def commit(self) -> None:
        self._send("COMMIT")
        if self._last is None and not _is_over(self._driver):
            raise self._driver.OperationalError(*_LOST)  # which SQLAlchemy knows as such, and gives the connection up

    def rollback(self) -> None:
        self._send("ROLLBACK")

    def _send(self, word: str) -> None:
        # Each answer is an object of its own, and one that is an error leaves None behind.
        if self._last is None or self._driver._result is not self._last:
            self._driver.query(word)  # its own `commit` does not keep the answer
            self.note()

    def note(self) -> None:
        """Take the last answer for that to the end of the transaction."""
        driver = self._driver
        self._last = None if driver.server_status & IN_TRANSACTION else driver._result


def watch_end(connection: Connection) -> None:
    """Have a transaction end by `Ends`."""
    driver = line(connection)
    if driver is not None:
        # On the pool's wrapper, which lasts as long as this transaction: an attribute that comes and goes on the driver's
        # own connection makes the interpreter look up all its methods anew.
        pooled: Any = connection.connection
        pooled.ends = ends = Ends(driver)
        pooled.commit, pooled.rollback = ends.commit, ends.rollback


def _is_over(driver: Any) -> bool:
    """Say whether the last answer can be that to a COMMIT: it says so itself, or another transaction begins at once."""
    if not driver.server_status & IN_TRANSACTION:
        return True
    driver.query(f"SELECT @@completion_type = 'CHAIN', {_ASKED}")
    return bool(driver._result.rows == ((1, _ASKED),))


def _note(connection: Connection, statement: Statement) -> None:
    pooled: Any = connection.connection
    driver = driver_of(connection)
    try:
        is_over = _is_over(driver)
    except BaseException as error:
        fail(connection, error, statement.sql, None)
    if not is_over:
        disbelieve(connection, statement.sql)
    ends = getattr(pooled, "ends", None)
    if ends is not None:  # else SQLAlchemy's COMMIT is sent as well, and does nothing
        ends.note()
