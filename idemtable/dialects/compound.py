"""MariaDB and MySQL through PyMySQL: several statements in one packet, and no waiting for what says nothing new.

MariaDB takes a block of statements as a single one, which decides by itself whether to come to COMMIT. MySQL does not:
there several statements travel together only on a connection that allows several in one packet, which PyMySQL forbids
unless it is told otherwise (``client_flag``). The library does not tell it: an application in which somebody finds a place
to inject is not to lose that guard for a round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .statement import Statement, fail, is_listened_to
from .words import is_mariadb
from .written import line

if TYPE_CHECKING:
    from sqlalchemy import Connection

REFUSED: Final = (1644, 1242)
"""What the last statement's check fails with where it did not touch exactly one row: the SIGNAL of the block; among several
statements, which can have no SIGNAL, a subquery of two rows."""

BLOCK: Final = """BEGIN NOT ATOMIC {statement};
    IF ROW_COUNT() = 1 THEN COMMIT;
    ELSE SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1644, MESSAGE_TEXT = 'the row is not this claim''s own';
    END IF; END"""
SEVERAL: Final = """{statement};
    SET @idemtable_kept = IF(ROW_COUNT() = 1, 1, (SELECT 1 UNION SELECT 2)); COMMIT"""

IN_TRANSACTION: Final = 1
"""The bit of the server's status that says so."""
_MULTI_STATEMENTS: Final = 1 << 16


class Along:
    """How the result of a call travels with COMMIT, or right before it, where PyMySQL sends them and nobody listens."""

    def __init__(self, statement: Callable[[str], Statement], store: str) -> None:
        self._block = statement(BLOCK.format(statement=store))
        self._several = statement(SEVERAL.format(statement=store))
        self._plain = statement(store)

    def __call__(self, connection: Connection) -> Callable[[Connection, Mapping[str, Any]], bool] | None:
        """Return what stores and commits, and says whether the row was the claim's own; ``None`` where SQLAlchemy is to."""
        if not _is_unheard_pymysql(connection):
            return None
        if is_mariadb(connection):
            return self._in_block
        return self._together if takes_several(connection) else self._one_by_one

    def _in_block(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        self._block(connection, values)
        return True

    def _together(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        send_several(connection, self._several, values)
        return True

    def _one_by_one(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        kept = self._plain(connection, values).rowcount == 1
        if kept:
            _commit(connection)
        return kept


def takes_several(connection: Connection) -> bool:
    """Say whether a connection of MySQL's takes several statements at once, and nobody wants to see them one by one."""
    if is_mariadb(connection) or not _is_unheard_pymysql(connection):
        return False
    driver: Any = connection.connection.driver_connection
    return bool(driver.client_flag & _MULTI_STATEMENTS)


def _is_unheard_pymysql(connection: Connection) -> bool:
    return line(connection) is not None and not is_listened_to(connection)


def _commit(connection: Connection) -> None:
    # As PyMySQL does, but that it keeps the answer: `Told` asks for it.
    driver: Any = connection.connection.driver_connection
    try:
        driver.query("COMMIT")
    except BaseException as error:
        fail(connection, error, "COMMIT", None)


def send_several(connection: Connection, statement: Statement, values: Mapping[str, Any]) -> None:
    """Run several statements, of which the first that fails keeps the server from doing the others.

    Raises:
        sqlalchemy.exc.DBAPIError: as SQLAlchemy itself would.
    """
    cursor = None
    try:
        cursor = connection.connection.cursor()
        cursor.execute(statement.sql, values)
        while cursor.nextset():
            pass
        cursor.close()
    except BaseException as error:
        fail(connection, error, statement.sql, values, cursor)


class Told:
    """Keeps SQLAlchemy's COMMIT from being sent inside, and then the pool's ROLLBACK: the transaction has ended.

    PyMySQL sends both all the same, and waits for each. The ROLLBACK is kept back where COMMIT's is the last answer of the
    server, and says that no transaction is open: with ``completion_type`` COMMIT begins another, and whoever listens to the
    pool or the session may have sent something since.
    """

    # No generator: each call enters one, and a generator's way in and out takes four times as long. And on the pool's
    # wrapper, which lasts as long as this transaction: an attribute that comes and goes on the driver's own connection
    # makes the interpreter look up all its methods anew.
    __slots__ = ("_pooled",)

    def __init__(self, connection: Connection) -> None:
        self._pooled: Any = connection.connection

    def __enter__(self) -> None:
        self._pooled.commit = self._once

    def _once(self) -> None:
        pooled = self._pooled
        del pooled.commit
        driver = pooled.driver_connection
        if not driver.server_status & IN_TRANSACTION:
            # Not a method: the wrapper would hold itself, and only the collector of cycles would find it.
            pooled.rollback = partial(_roll_back, driver, driver._result)

    def __exit__(self, *raised: object) -> None:
        vars(self._pooled).pop("commit", None)


def _roll_back(driver: Any, last: Any) -> None:
    # Each answer is an object of its own, and one that is an error leaves None behind.
    if last is None or driver._result is not last:
        driver.rollback()
