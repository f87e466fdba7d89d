"""Several servers behind one engine, for the drivers whose URLs have room for one: MySQL's and MariaDB's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from ipaddress import IPv6Address
from random import sample
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

from .dialects import MySQL, find
from .dialects.hosts import Host, reach
from .settings import checked_wait

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

E = TypeVar("E", bound="Engine | AsyncEngine")

_LONGEST: Final = timedelta(minutes=1)
"""A dead host is waited for at every new connection, and so is the next one."""
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^\s:/@\[\],]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_CURES: Final = {
    "postgresql": "psycopg, psycopg2 and asyncpg take several hosts themselves: write "
    "…/shop?host=db1:5432&host=db2:5432&target_session_attrs=read-write in the URL",
    "sqlite": "SQLite is a file and has no hosts",
}

_listeners: Final[WeakKeyDictionary[SQLAlchemyDialect, Callable[..., Any]]] = WeakKeyDictionary()


def multi_host(
    engine: E,
    hosts: Sequence[str],
    *,
    prefer: Literal["first", "random"] = "first",
    connect_timeout: timedelta = timedelta(seconds=2),
) -> E:
    """Have an engine for MySQL or MariaDB connect to whichever of several hosts takes writes.

    Each new connection tries the hosts one after the other and asks whether there is a server that may be written to: not
    ``read_only``, not ``offline_mode``, and ready where it is Galera's. The host, port and socket of the engine's URL are
    ignored; all else of it holds, and so do ``connect_args``. Connections that are pooled already stay where they are. A
    second call for one engine takes the place of the first one. Listeners of your own to ``do_connect`` that change
    arguments (passwords that expire) are heard if they were there before.

    Args:
        engine: an ``Engine`` or ``AsyncEngine``, not made with ``creator``.
        hosts: such as ``["db1:3306", "[2001:db8::1]:3306"]``, each with its port.
        prefer: ``"first"`` tries them in their order, ``"random"`` in another one each time.
        connect_timeout: how long to wait for a host to be connected to, to greet and to answer, up to a minute. Drivers
            in C and MySQL's own connector count whole seconds and round up. The time-outs of the connection are those of
            the URL again when it is handed out; ``connect_timeout`` there is not used.

    Returns:
        The engine given.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the engine is for another database or driver, or was made with ``creator``; no host, one without a
            port, or one that is named twice; another word for `prefer`; a time that is zero or longer than a minute.

    Where no host takes writes, connecting raises the last host's error, one of the driver's own.
    """
    sync = getattr(engine, "sync_engine", engine)
    if not isinstance(sync, Engine):
        raise TypeError(f"multi_host takes an Engine or an AsyncEngine, not {engine!r}")
    _check_engine(sync)
    tried = _checked_hosts(hosts)
    if prefer not in ("first", "random"):
        raise ValueError(f'prefer= takes "first" or "random", not {prefer!r}')
    seconds = checked_wait(connect_timeout, "connect_timeout")
    if not timedelta() < connect_timeout <= _LONGEST:
        raise ValueError(f"connect_timeout must be longer than zero and at most {_LONGEST}, not {connect_timeout}")

    def connect(dialect: SQLAlchemyDialect, record: object, args: list[Any], parameters: dict[str, Any]) -> Any:
        order = tried if prefer == "first" else sample(tried, len(tried))
        return reach(dialect, order, args, parameters, seconds)

    if (before := _listeners.get(sync.dialect)) is not None:
        event.remove(sync.dialect, "do_connect", before)
    event.listen(sync.dialect, "do_connect", connect)  # which variants of an engine share
    _listeners[sync.dialect] = connect
    return engine


def is_multi_host(engine: Engine) -> bool:
    """Say whether `multi_host` was called for an engine."""
    return engine.dialect in _listeners


def _check_engine(engine: Engine) -> None:
    name = engine.dialect.name
    if name in _CURES:
        raise ValueError(f"multi_host is for MySQL and MariaDB, not for {name}: {_CURES[name]}")
    if not isinstance(find(engine.dialect, "idemtable", None), MySQL):
        raise ValueError(f"multi_host is for MySQL and MariaDB, not for {name}")
    # SQLAlchemy asks nobody where the program connects by itself, and the hosts would never be tried.
    creator = getattr(engine.pool, "_creator", None)
    if getattr(creator, "__module__", "sqlalchemy.engine.create") != "sqlalchemy.engine.create":
        raise ValueError(
            "this engine was made with creator=, async_creator= or pool=, which connects by itself: leave it out, and put "
            "what it says into the URL or connect_args="
        )


def _checked_hosts(hosts: object) -> list[Host]:
    if isinstance(hosts, str) or not isinstance(hosts, Sequence):
        raise TypeError(f'hosts takes a list such as ["db1:3306", "db2:3306"], not {hosts!r}')
    if not hosts:
        raise ValueError('hosts is empty: name one at least, such as ["db1:3306"]')
    found = [_checked_host(host) for host in hosts]
    if len(set(found)) < len(found):
        raise ValueError(f"a host is named twice: {', '.join(map(str, found))}")
    return found


def _checked_host(host: object) -> Host:
    if not isinstance(host, str):
        raise TypeError(f'hosts takes strings such as "db1:3306", not {host!r}')
    parts = _ADDRESS.fullmatch(host)
    if parts is None or not 0 < int(parts["port"]) < 65536:
        raise ValueError(
            f'{host!r} is no host with its port: write "db1:3306", "10.0.0.1:3306" or "[2001:db8::1]:3306", without user '
            f"and password"
        )
    if parts["v6"] is None:
        return Host(parts["name"], int(parts["port"]))
    try:
        IPv6Address(parts["v6"])
    except ValueError as error:
        raise ValueError(f"{host!r}: what stands in brackets is no IPv6 address ({error})") from None
    return Host(parts["v6"], int(parts["port"]))
