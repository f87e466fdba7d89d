"""What drivers tell of a connection, each in its own way, and what the server must be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .statement import send
from .words import driver_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

_AUTOCOMMIT: Final = "idemtable_autocommit"
"""Where a driver's connection keeps what the server has said of it."""


def commits_by_itself(connection: Connection) -> bool:
    """Say whether a driver was told to commit each statement."""
    driver: Any = connection.connection.dbapi_connection
    detect = getattr(connection.dialect, "detect_autocommit_setting", None)  # since SQLAlchemy 2.0.43
    if detect is not None:
        return bool(detect(driver))
    raw: Any = driver_of(connection)
    if callable(tells := getattr(raw, "get_autocommit", None)):  # PyMySQL, asyncmy, mysqlclient
        return bool(tells())
    if isinstance(told := getattr(raw, "autocommit", None), bool):  # psycopg, psycopg2
        return told
    return getattr(driver, "isolation_level", None) == "autocommit"  # asyncpg, as SQLAlchemy has adapted it


def piped(connection: Connection) -> str | None:
    """Say why psycopg would give no statement its answer now, with the cure; ``None`` if it would."""
    if not driver_of(connection).pgconn.pipeline_status:
        return None
    return "it is inside psycopg's pipeline(), where no statement is answered at once. Call before it, or after its end"


# --- MySQL and MariaDB ------------------------------------------------------------------------------------------------

IN_TRANSACTION: Final = 1
"""The bit of the server's status that says so."""


def in_transaction(driver: Any) -> bool | None:
    """Say whether the last answer that tells of it was in a transaction; ``None`` if the driver keeps that to itself."""
    if (status := getattr(driver, "server_status", None)) is not None:  # PyMySQL, asyncmy
        return bool(status & IN_TRANSACTION)
    inside: bool | None = getattr(driver, "in_transaction", None)  # MySQL's own connector; mysqlclient does not tell
    return inside


def asked_autocommit(connection: Connection) -> bool:
    """Say whether the server commits each statement of MySQL's own connector, which only knows what it has said itself.

    Of an ``init_command`` or a statement of a listener it hears nothing, and what it would do, to ask each time, costs a
    round trip in each call.
    """
    if getattr(driver_of(connection), "_autocommit", False):
        return True
    known = connection.connection.info
    if _AUTOCOMMIT not in known:
        known[_AUTOCOMMIT] = bool(send(connection, "SELECT @@SESSION.autocommit").scalar())
    return bool(known[_AUTOCOMMIT])


def half_read(connection: Connection) -> str | None:
    """Say what a statement would lose where PyMySQL or asyncmy is giving the rows of another one as they come."""
    if connection.closed or connection.invalidated:
        return None
    result = getattr(driver_of(connection), "_result", None)
    if not getattr(result, "unbuffered_active", False):  # mysqlclient and the connector refuse the statement themselves
        return None
    return (
        "it is still reading rows as they come (yield_per, stream_results), and its driver drops the rest of them at the "
        "next statement. Read them into a list before, or in a session of their own"
    )


_UNNUMBERED: Final = -1
_TIMED_OUT: Final = ("ConnectionTimeoutError", "ReadTimeoutError", "WriteTimeoutError")
"""MySQL's own connector has closed the connection, and numbers that like a statement that took too long."""


def number(error: BaseException) -> Any:
    """Return the number of an error."""
    code = error.args[0] if error.args else None
    if code == _UNNUMBERED and type(error).__name__ in ("OperationalError", "InterfaceError"):
        return 2013  # MySQL's own connector, which finds its connection gone before it sends anything
    if type(error).__name__ in _TIMED_OUT:
        return 2013
    return code
