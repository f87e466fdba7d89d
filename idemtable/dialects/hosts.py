"""A connection to one of several servers of MySQL's or MariaDB's: had in time, and asked whether it may be written to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from .mysql import MySQL

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

_CANNOT_CONNECT: Final = 2003
"""What a driver says where nobody listens; everybody knows it as "no server can be had"."""

# MariaDB skips what is for MySQL: a variable that it does not know would be an error. super_read_only is never on alone.
_READ_ONLY: Final = "SELECT @@GLOBAL.read_only /*!80000 , @@GLOBAL.offline_mode */"
# Not wsrep_ready alone: a MariaDB that belongs to no cluster says OFF too, and has no provider.
_WSREP: Final = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_provider_name')"
_UNTOLD: Final = frozenset({1064, 1142, 1193, 1227})
"""A proxy or a server of another make does not know the question, or does not answer this user: nobody has said no."""
_OFF: Final = frozenset({"0", "OFF"})

_NAMES: Final = ("connect_timeout", "connection_timeout", "read_timeout", "write_timeout")
"""What the drivers call their time-outs."""
_WHERE: Final = ("host", "port", "unix_socket")


@dataclass(frozen=True, slots=True)
class Host:
    """A server's address."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def reach(
    dialect: SQLAlchemyDialect,
    hosts: Sequence[Host],
    args: Sequence[Any],
    parameters: Mapping[str, Any],
    seconds: float,
) -> Any:
    """Connect to the first host that takes writes.

    Args:
        dialect: of the engine.
        hosts: in the order in which they are tried.
        args: the driver's, as SQLAlchemy would give them.
        parameters: the driver's too; where they lead to is left out.
        seconds: how long to wait for whatever a host has to say.

    Returns:
        The driver's connection, with the time-outs that `parameters` ask for.

    Raises:
        Exception: the last host's error, one of the driver's own; it bears notes of what the others said.
    """
    rest = {name: value for name, value in parameters.items() if name not in _WHERE}
    told: list[tuple[Host, Any]] = []
    for host in hosts:
        try:
            return _reach_one(dialect, host, args, rest, seconds)
        except dialect.loaded_dbapi.Error as error:  # what is not the driver's word for it, every host would have
            told.append((host, _known(dialect, host, error)))
    last: Exception = told.pop()[1]
    for host, earlier in told:
        last.add_note(f"{host}: {earlier}")
    raise last


def _reach_one(
    dialect: SQLAlchemyDialect, host: Host, args: Sequence[Any], rest: Mapping[str, Any], seconds: float
) -> Any:
    there = {**rest, "host": host.name, "port": host.port}
    if dialect.is_async:
        return _within(dialect, host, args, there, seconds)
    connection = _asked(dialect, host, args, _hurried(dialect, there, seconds), seconds)
    if _put_back(connection, rest):
        return connection
    # The C libraries take time-outs for the life of a connection: this one was good for the question.
    with suppress(Exception):
        connection.close()
    there = {name: value for name, value in there.items() if name not in _NAMES[:2]}
    return dialect.connect(*args, connect_timeout=ceil(seconds), **there)


def _within(
    dialect: SQLAlchemyDialect, host: Host, args: Sequence[Any], there: Mapping[str, Any], seconds: float
) -> Any:
    from sqlalchemy.util import await_only, greenlet_spawn

    parameters = {**there, "connect_timeout": seconds}  # the driver's own, of ten seconds, may be the shorter one
    try:
        return await_only(asyncio.wait_for(greenlet_spawn(_asked, dialect, host, args, parameters, seconds), seconds))
    except TimeoutError as error:
        raise _unreachable(dialect, host, f"no answer within {seconds:g} seconds") from error


def _asked(
    dialect: SQLAlchemyDialect, host: Host, args: Sequence[Any], parameters: Mapping[str, Any], seconds: float
) -> Any:
    connection: Any = dialect.connect(*args, **parameters)
    try:
        if type(connection).__module__ == "mysql.connector.connection" and not hasattr(connection, "read_timeout"):
            connection._socket.set_connection_timeout(seconds)  # before 9.2
        if (reason := _refusal(connection)) is not None:
            raise _unreachable(dialect, host, reason)
        connection.rollback()
    except BaseException:
        # Of an async driver without a farewell, which would wait for a server that does not listen.
        with suppress(Exception):
            (connection.driver_connection if dialect.is_async else connection).close()
        raise
    return connection


def _refusal(connection: Any) -> str | None:
    """Say why a server may not be written to, if it may not."""
    for row in _answers(connection, _READ_ONLY):
        if any(value not in _OFF for value in row):
            return "it is read-only or offline"
    status = dict(_answers(connection, _WSREP))
    if status.get("wsrep_provider_name") and status.get("wsrep_ready") in _OFF:
        return "it is no part of its cluster"
    return None


def _answers(connection: Any, question: str) -> list[list[str]]:
    cursor = connection.cursor()
    try:
        cursor.execute(question)
        return [[_text(value) for value in row] for row in cursor.fetchall()]
    except Exception as error:
        if MySQL.code(error) not in _UNTOLD:
            raise
        return []
    finally:
        with suppress(Exception):
            cursor.close()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes | bytearray) else str(value)


# --- what each driver calls it --------------------------------------------------------------------------------------------


def _hurried(dialect: SQLAlchemyDialect, there: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return parameters with which a sync driver waits no longer than that for anything."""
    rest = {name: value for name, value in there.items() if name not in _NAMES}
    if dialect.driver == "pymysql":
        return {**rest, **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds)}
    whole = ceil(seconds)  # the others take nothing else
    hurried = {**rest, "connect_timeout": whole, "read_timeout": whole, "write_timeout": whole}
    if dialect.driver == "mysqlconnector":
        from mysql.connector.constants import DEFAULT_CONFIGURATION

        known = {*DEFAULT_CONFIGURATION, *there}  # an older one refuses what it does not know
        return {name: value for name, value in hurried.items() if name in known}
    return hurried


def _put_back(connection: Any, parameters: Mapping[str, Any]) -> bool:
    """Give a connection the time-outs that its program wants; say whether the driver can."""
    read, write = parameters.get("read_timeout"), parameters.get("write_timeout")
    where = type(connection).__module__
    if where == "pymysql.connections":
        connection._read_timeout, connection._write_timeout = read, write
    elif where != "mysql.connector.connection":
        return False
    elif hasattr(connection, "read_timeout"):
        connection.read_timeout, connection.write_timeout = read, write
    else:
        connection._socket.set_connection_timeout(None)  # which is what it does itself, after the greeting
    return True


def _known(dialect: SQLAlchemyDialect, host: Host, error: Exception) -> Exception:
    """Return an error that everybody knows: a time-out of MySQL's own connector has a class and a number of its own."""
    if isinstance(error, dialect.loaded_dbapi.DatabaseError | dialect.loaded_dbapi.InterfaceError):
        return error
    known = _unreachable(dialect, host, str(error).strip())
    known.__cause__ = error
    return known


def _unreachable(dialect: SQLAlchemyDialect, host: Host, reason: str) -> Exception:
    message = f"Can't connect to MySQL server on {host} for writing: {reason}"
    cls: Any = dialect.loaded_dbapi.OperationalError
    error: Exception = (
        cls(message, errno=_CANNOT_CONNECT) if dialect.driver == "mysqlconnector" else cls(_CANNOT_CONNECT, message)
    )
    return error
