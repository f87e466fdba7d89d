"""What the databases have in common: what their errors mean, and what is done to a connection and undone again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.engine.default import DefaultDialect

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Fault(Enum):
    """What an error of the database means to a call."""

    BUSY = auto()
    """Somebody else holds what was asked for, for longer than allowed."""
    RESTART = auto()
    """The transaction is gone or must go; beginning it again may succeed."""
    UNKNOWN = auto()
    """The connection is gone, and with it the knowledge of whether COMMIT arrived."""
    DUPLICATE = auto()
    READ_ONLY = auto()
    """Writing was not asked for: the application has made the transaction, or the connection, read-only."""
    ELSEWHERE = auto()
    """This server does not take writes, and another one of its cluster may."""
    AWAY = auto()
    """No server can be had just now."""
    DEAD = auto()
    """The transaction, or the savepoint asked for, is no longer there."""
    NO_TABLE = auto()
    DENIED = auto()
    """The role lacks a right."""


class Look(Enum):
    """What a look at a row leaves behind."""

    STAYING = auto()
    """The transaction that it is in, or that it begins."""
    LEAVING = auto()
    """None: whatever the row says, the transaction will be undone, and may be in the same packet."""
    ASIDE = auto()
    """None: nothing else was sent, and a driver that can sends it outside of a transaction."""


def asked_level(connection: Connection) -> str | None:
    """Return the isolation level in which a connection was asked for, by itself or by its engine.

    SQLAlchemy takes ``read_uncommitted`` for ``READ UNCOMMITTED``.
    """
    level = connection.get_execution_options().get("isolation_level")
    level = level or getattr(connection.dialect, "_on_connect_isolation_level", None)
    return level and level.replace("_", " ").upper()


def level_of(connection: Connection) -> str | None:
    """Return the isolation level of a connection's transactions, as far as SQLAlchemy was told."""
    return asked_level(connection) or connection.dialect.default_isolation_level


def asks_autocommit(connection: Connection) -> bool:
    """Say whether a connection was asked for in AUTOCOMMIT, by itself or by its engine."""
    return asked_level(connection) == "AUTOCOMMIT"


_PLAIN: Final = frozenset({
    DefaultDialect.do_commit, DefaultDialect.do_rollback,
    DefaultDialect.do_execute, DefaultDialect.do_execute_no_params, DefaultDialect.do_executemany,
})  # fmt: skip


def is_plain(way: Any) -> bool:
    """Say whether an application has not put a way of its own in place of SQLAlchemy's to execute, commit or roll back."""
    return getattr(way, "__func__", None) in _PLAIN


def driver_of(connection: Connection) -> Any:
    """Return the driver's own connection, also of one that was detached from its pool."""
    # Not the wrapper's `driver_connection`, which has it from the pool's record, and then is None.
    driver, dialect = connection.connection.dbapi_connection, connection.dialect
    return driver if driver is None or not dialect.is_async else dialect.get_driver_connection(driver)


def is_mariadb(connection: Connection) -> bool:
    """Say whether it is MariaDB that a driver of MySQL's is connected to."""
    return bool(getattr(connection.dialect, "is_mariadb", False))


def wire(driver: Any) -> Callable[[], int] | None:
    """Return what tells the number of a driver's socket, or ``None`` where it keeps that to itself."""
    return getattr(driver, "fileno", None) or getattr(getattr(driver, "_sock", None), "fileno", None)  # PyMySQL


def hang_up(line: Callable[[], int], how: int = socket.SHUT_RDWR) -> None:
    """Shut a socket down and leave it open, also under a thread that is reading from it.

    Args:
        line: what `wire` returned.
        how: ``SHUT_RD`` lets what is sent arrive, and its answer be lost.
    """
    with suppress(OSError), socket.socket(fileno=socket.dup(line())) as other:
        other.shutdown(how)


AS_IT_IS: Final = nullcontext()
"""Inside of which nothing is changed."""


@contextmanager
def lent(connection: Connection, put_back: Callable[[], object]) -> Iterator[None]:
    """Change a setting of the session inside, and put it back however that ends.

    What is being raised goes on, whatever becomes of the setting, unless that is interrupted; and nobody may find ours on a
    connection of the pool.
    """
    try:
        yield
    except BaseException:
        if not connection.invalidated:
            try:
                put_back()
            except BaseException as error:
                with suppress(Exception):
                    connection.invalidate()
                if not isinstance(error, Exception):
                    raise
        raise
    try:
        put_back()
    except BaseException:
        if not connection.invalidated:
            connection.invalidate()
        raise
