"""MariaDB and MySQL through PyMySQL: several statements in one packet.

MariaDB takes a block of statements as a single one, which decides by itself whether to come to COMMIT. MySQL does not:
there several statements travel together only on a connection that allows several in one packet, which PyMySQL forbids
unless it is told otherwise (``client_flag``). The library does not tell it: an application in which somebody finds a place
to inject is not to lose that guard for a round trip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from .statement import Statement, fail, is_listened_to
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

_MULTI_STATEMENTS: Final = 1 << 16


def takes_blocks(connection: Connection) -> bool:
    """Say whether a connection takes `BLOCK`, and nobody wants to see its statements one by one."""
    return _is_mariadb(connection) and _is_unheard_pymysql(connection)


def takes_several(connection: Connection) -> bool:
    """Say whether a connection of MySQL's takes several statements at once, and nobody wants to see them one by one."""
    if _is_mariadb(connection) or not _is_unheard_pymysql(connection):
        return False
    driver: Any = connection.connection.driver_connection
    return bool(driver.client_flag & _MULTI_STATEMENTS)


def _is_mariadb(connection: Connection) -> bool:
    return bool(getattr(connection.dialect, "is_mariadb", False))


def _is_unheard_pymysql(connection: Connection) -> bool:
    return line(connection) is not None and not is_listened_to(connection)


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
    """Keeps SQLAlchemy's COMMIT from being sent inside: the transaction has ended, and PyMySQL sends it all the same."""

    # No generator: each call enters one, and a generator's way in and out takes four times as long. And on the pool's
    # wrapper, which lasts as long as this transaction: an attribute that comes and goes on the driver's own connection
    # makes the interpreter look up all its methods anew.
    __slots__ = ("_pooled",)

    def __init__(self, connection: Connection) -> None:
        self._pooled: Any = connection.connection

    def __enter__(self) -> None:
        self._pooled.commit = self._once

    def _once(self) -> None:
        del self._pooled.commit

    def __exit__(self, *raised: object) -> None:
        vars(self._pooled).pop("commit", None)
