"""The only module that knows Engine and Session from AsyncEngine and AsyncSession.

Everything below runs on a sync Connection or Session; async enters through SQLAlchemy's own ``run_sync``. Nothing of
``sqlalchemy.ext.asyncio`` is imported before it is needed: SQLAlchemy 2.1 installs no greenlet by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, sessionmaker

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

T = TypeVar("T")


def is_async(target: object) -> bool:
    """Say whether a bind or a session is one of SQLAlchemy's async classes, or derives from one."""
    return any(cls.__module__.startswith("sqlalchemy.ext.asyncio") for cls in type(target).__mro__)


class Binding:
    """An Engine or a sessionmaker: where transactions come from."""

    is_async = False
    engine: Engine
    session: Callable[[], Session]

    def __init__(self, bind: Engine | sessionmaker[Any]) -> None:
        if is_async(bind):
            raise TypeError(f"{type(bind).__name__} is async: use AsyncIdemTable")
        if isinstance(bind, Engine):
            self.engine = bind
            # Objects that outlive the call stay readable: it has ended its transaction when the caller sees them.
            self.session = sessionmaker(bind, expire_on_commit=False)
        elif isinstance(bind, sessionmaker):
            engine = bind.kw.get("bind")
            if not isinstance(engine, Engine):
                raise ValueError("the sessionmaker is bound to no Engine: make it with sessionmaker(engine)")
            self.engine, self.session = engine, bind
        else:
            raise TypeError(f"IdemTable takes an Engine or a sessionmaker, not {bind!r}")

    def run(self, work: Callable[[Connection], T], options: Mapping[str, Any] | None = None) -> T:
        """Run a function of a connection in a short transaction of its own."""
        with self.engine.connect() as connection, connection.execution_options(**options or {}).begin():
            return work(connection)


class AsyncBinding:
    """The same for an AsyncEngine or an async_sessionmaker; `engine` is the sync engine inside."""

    is_async = True
    engine: Engine
    session: Callable[[], AsyncSession]

    def __init__(self, bind: AsyncEngine | async_sessionmaker[Any]) -> None:
        try:
            from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
        except ImportError as error:
            raise ImportError('async needs greenlet: pip install "idemtable[asyncio]"') from error
        if isinstance(bind, AsyncEngine):
            self._engine = bind
            self.session = async_sessionmaker(bind, expire_on_commit=False)
        elif isinstance(bind, async_sessionmaker):
            engine = bind.kw.get("bind")
            if not isinstance(engine, AsyncEngine):
                raise ValueError("the async_sessionmaker is bound to no AsyncEngine")
            self._engine, self.session = engine, bind
        elif isinstance(bind, Engine | sessionmaker):
            raise TypeError(f"{type(bind).__name__} is sync: use IdemTable, or make it async")
        else:
            raise TypeError(f"AsyncIdemTable takes an AsyncEngine or an async_sessionmaker, not {bind!r}")
        self.engine = self._engine.sync_engine

    async def run(self, work: Callable[[Connection], T], options: Mapping[str, Any] | None = None) -> T:
        """Run a function of a sync connection in a short transaction of its own."""
        async with self._engine.connect() as connection:
            await connection.execution_options(**options or {})
            async with connection.begin():
                return await connection.run_sync(work)


def awaited(value: Any) -> Any:
    """Wait for what an async client returned; anything else is returned as it is.

    Only inside ``run_sync``, where SQLAlchemy's bridge to the event loop is open.
    """
    if not inspect.isawaitable(value):
        return value
    from sqlalchemy.util import await_only

    return await_only(value)


def unscoped(session: Any) -> Any:
    """Return the session that a scoped_session or an async_scoped_session stands for here; any other as it is."""
    registry = getattr(session, "registry", None)
    return session() if registry is not None and callable(session) else session


def sync_session(session: object, expected: str) -> Session:
    """Return the sync Session of what a caller handed over.

    Args:
        session: a Session, or an AsyncSession where `expected` says so.
        expected: "Session" or "AsyncSession".

    Raises:
        TypeError: it is something else.
    """
    session = unscoped(session)
    found = is_async(session)
    if expected == "AsyncSession" and found and isinstance(getattr(session, "sync_session", None), Session):
        return session.sync_session  # type: ignore[attr-defined,no-any-return]
    if expected == "Session" and isinstance(session, Session):
        return session
    raise TypeError(f"expected the transaction's {expected}, not {session!r}")
