"""Looks at all tables, on a connection apart from the application's: in the colour of the engine, asked for in either."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from ..binding import apart, is_async
from ..dialects import find
from .snapshot import Identities, Snapshot, look

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


def checked_engine(engine: object) -> Any:
    """Return an engine through which several calls at once, and what they leave, can be seen.

    Raises:
        TypeError: it is none, or a Connection. ValueError: its database is in memory, or none that the library knows.
    """
    sync = getattr(engine, "sync_engine", engine)
    if not isinstance(sync, sa.Engine):
        raise TypeError(
            f"assert_idempotent takes an Engine or AsyncEngine, not {engine!r}: a connection is one transaction, in "
            f"which no two calls meet"
        )
    find(sync.dialect, "idemtable", None)
    if isinstance(sync.pool, sa.StaticPool | sa.SingletonThreadPool):
        raise ValueError(
            f"with its {type(sync.pool).__name__} the engine has one connection for everybody, or a database for each "
            f"thread: use a file, as the fixture idem_sqlite does"
        )
    return engine


class Eyes:
    """What looks.

    Args:
        engine: of the application; its pool and its listeners are left alone.
        ignore: names of tables not to look at.
    """

    def __init__(self, engine: Any, ignore: Collection[str]) -> None:
        self._engine = apart(getattr(engine, "sync_engine", engine))
        self._ignore = ignore
        self._identities: Identities = {}
        self._is_async = is_async(engine)
        self._connection: sa.Connection | None = None
        self._async_connection: AsyncConnection | None = None
        self._loop: _Loop | None = None

    def look(self) -> Snapshot:
        """Look; where the engine is async, on a loop of its own."""
        if self._is_async:
            self._loop = self._loop or _Loop()
            return self._loop.run(self.alook())
        if self._connection is None:
            self._connection = self._engine.connect()
        return look(self._connection, self._ignore, self._identities)

    async def alook(self) -> Snapshot:
        """Look from a task: nothing else is under way then, and a sync engine may hold up the loop."""
        if not self._is_async:
            return self.look()
        if self._async_connection is None:
            from sqlalchemy.ext.asyncio import AsyncEngine

            self._async_connection = await AsyncEngine(self._engine).connect()
        return await self._async_connection.run_sync(look, self._ignore, self._identities)

    def close(self) -> None:
        """Close the connection that was looked on from a thread."""
        if self._loop is not None:
            self._loop.run(self.aclose())
            self._loop.close()
        elif not self._is_async:
            if self._connection is not None:
                self._connection.close()
            self._engine.dispose()

    async def aclose(self) -> None:
        """Close the connection that was looked on from a task."""
        if not self._is_async:
            self.close()
        elif self._async_connection is not None:
            from sqlalchemy.ext.asyncio import AsyncEngine

            await self._async_connection.close()
            await AsyncEngine(self._engine).dispose()


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="idemtable-testing")
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._thread.submit(self._runner.run, coroutine).result()

    def close(self) -> None:
        with suppress(RuntimeError):
            self._thread.submit(self._runner.close).result()
        self._thread.shutdown()
