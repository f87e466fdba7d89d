"""Where an error came from: of which connection, and whether of a statement of the library's. It does not say it itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.event.registry import _EventKey

from ..model import MARK

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

_ORIGIN: Final = f"{MARK}connection__"
_OWN: Final = f"{MARK}own__"

_listening: Final[weakref.WeakKeyDictionary[SQLAlchemyDialect, set[tuple[str, Callable[..., Any]]]]] = (
    weakref.WeakKeyDictionary()
)


def root(engine: Engine) -> Engine:
    """Return the engine of which this one is a variant with other execution options.

    What listens to a variant alone does not hear of the others, and they all share one pool.
    """
    while (parent := getattr(engine, "_proxied", None)) is not None:
        engine = parent
    return engine


def listen_once(engine: Engine, name: str, heard: Callable[..., Any]) -> None:
    """Listen to an event that an engine's dialect tells of; doing it twice is harmless.

    Not by ``event.contains``, which goes by the engine's address: that of an engine that is gone may be another one's by
    now, and the dialect that has the listener may live on.
    """
    engine = root(engine)
    known = _listening.setdefault(engine.dialect, set())
    if (name, heard) not in known:
        known.add((name, heard))
        event.listen(engine, name, heard)


def hear(connection: Connection, name: str, heard: Callable[..., Any]) -> None:
    """Listen to an event of one connection."""
    _key(connection, name, heard).listen()


def unhear(connection: Connection, name: str, heard: Callable[..., Any]) -> None:
    """Listen no more."""
    _key(connection, name, heard).remove()


def _key(connection: Connection, name: str, heard: Callable[..., Any]) -> _EventKey[Connection]:
    # What event.listen() and event.remove() make of their arguments. SQLAlchemy before 2.0.38 would not: to it a
    # connection of an engine's variant knows no events.
    return _EventKey(connection, name, heard, connection)


def listen(engine: Engine) -> None:
    """Have the errors of an engine's connections say whose they are; doing it twice is harmless."""
    listen_once(engine, "handle_error", _mark)


def _mark(context: Any) -> None:
    if context.connection is None:  # there was none to be had
        return
    reference = _Reference(context.connection)
    for error in (context.original_exception, context.sqlalchemy_exception):
        with suppress(AttributeError):  # a driver's error without a place for it
            setattr(error, _ORIGIN, reference)


class _Reference:
    """What tells of a connection while it is there, and lets the error be pickled that has it: by a task queue, for one."""

    def __init__(self, connection: Connection) -> None:
        self.connection = weakref.ref(connection)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def origin_of(error: BaseException) -> Connection | None:
    """Return the connection that raised an error, if it is known and still there."""
    reference = getattr(error, _ORIGIN, None)
    return None if reference is None else reference.connection()


def note_own(error: BaseException, sql: str, is_databases: Callable[[BaseException], bool]) -> None:
    """Note that an error is the database's answer to a statement of the library's.

    By its number alone a table that an application misses is the library's: its listeners send statements around each of
    these, as a transaction begins and before each cursor executes.

    Args:
        error: that was raised by it, whatever a listener has made of that.
        sql: the statement.
        is_databases: says so of an error.
    """
    said = said_by(is_databases, error)
    # Not equal: a listener may have added a comment for those who trace it.
    if said is not None and sql in (getattr(said, "statement", None) or sql):
        for one in (said, getattr(said, "orig", None)):  # SQLAlchemy's, and the driver's in it
            with suppress(AttributeError):
                setattr(one, _OWN, True)


def is_own(error: BaseException) -> bool:
    """Say whether an error is the answer to a statement of the library's."""
    return getattr(error, _OWN, False)


def said_by(is_databases: Callable[[BaseException], bool], error: BaseException) -> BaseException | None:
    """Return the database's own error behind one that an application has made of it (``handle_error``), whatever its class.

    No further than to that: what is behind it was there before.

    Args:
        is_databases: says so of an error.
        error: that was raised.
    """
    one: BaseException | None = error
    while one is not None and not is_databases(one):
        one = one.__cause__ or one.__context__
    return one
