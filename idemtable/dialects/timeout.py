"""How long SQLite waits for its one lock: a setting of the connection, which is the application's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from .statement import send
from .words import AS_IT_IS, lent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

T = TypeVar("T")

_TIMEOUT: Final = "idemtable_busy_timeout"
"""Where a driver's connection keeps what it is. SQLite compiles a PRAGMA anew each time that it runs: to ask in each call
was 3 percent of it. What the application has changed since is noticed when the lock is not to be had."""


def begin_to_write(connection: Connection, wait: int, heard: bool) -> None:
    """Begin a transaction with the write lock.

    Args:
        connection: that has begun none.
        wait: at most so many milliseconds for it.
        heard: what `is_listened_to` has said of the connection.
    """
    waiting(connection, wait, heard, partial(send, connection, "BEGIN IMMEDIATE", heard=heard))


def waiting(connection: Connection, wait: int, heard: bool | None, run: Callable[[], T]) -> T:
    """Run what waits for a lock, and can be run again after it has waited in vain.

    Args:
        connection: that it runs on.
        wait: at most so many milliseconds.
        heard: what `is_listened_to` has said of the connection, if it was asked.
        run: sends it.
    """
    info = connection.connection.info
    known = info.get(_TIMEOUT)
    if known is not None and _suits(known, wait):
        try:
            return run()
        except Exception:
            if connection.invalidated or _usual_timeout(connection, heard) == known:
                raise
    usual = info[_TIMEOUT] = _usual_timeout(connection, heard)
    with _as_it_suits(connection, usual, wait):
        return run()


def busy_timeout(connection: Connection, wait: int) -> AbstractContextManager[None]:
    """Let what runs inside wait at most so many milliseconds for a lock."""
    return _as_it_suits(connection, _usual_timeout(connection), wait)


def _as_it_suits(connection: Connection, usual: int, wait: int) -> AbstractContextManager[None]:
    return AS_IT_IS if _suits(usual, wait) else _another_timeout(connection, usual, wait)


def _usual_timeout(connection: Connection, heard: bool | None = None) -> int:
    # Read each time that it is to be changed: the application may have changed it since, and wants to find its own value.
    return send(connection, "PRAGMA busy_timeout", heard=heard).rows[0][0]  # type: ignore[no-any-return]


def _suits(usual: int, wait: int) -> bool:
    # With the defaults of driver and library, five seconds, there is nothing to set.
    return usual * 0.95 <= wait <= usual


@contextmanager
def _another_timeout(connection: Connection, usual: int, wait: int) -> Iterator[None]:
    with lent(connection, lambda: send(connection, f"PRAGMA busy_timeout = {usual}")):
        send(connection, f"PRAGMA busy_timeout = {wait}")
        yield
