"""The outer transaction that a test suite rolls back: everything that a test commits is a savepoint of it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import sessionmaker

from ..binding import AsyncBinding, Binding, is_async
from ..dialects import find
from ..table_base import BaseTable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


class rolled_back:  # noqa: N801 - entered by `with`, as what contextlib makes
    """Have all that is committed through tables, sessionmakers and the connection undone at the end of the block.

    They are bound to one connection, in a transaction that is rolled back, and then to what they were bound to before. One
    connection is one transaction: no two calls meet in it (the second one raises SessionNotUsableError), and
    `assert_idempotent` sees nothing of it. With what is async it is entered by ``async with``.

    Args:
        binds: tables (`IdemTable`, `AsyncIdemTable`), sessionmakers, or the engine alone; of one engine and one colour.

    Returns:
        The connection, for what a test binds or looks at itself.

    Raises:
        TypeError: there is none, or one of them cannot be bound. ValueError: they have several engines, or are bound to a
            Connection already.
    """

    def __init__(self, *binds: Any) -> None:
        self._bindings = [_binding(bind) for bind in binds]
        engines = {binding.engine for binding in self._bindings}
        if not self._bindings:
            raise TypeError("rolled_back takes tables, sessionmakers or an engine, and was given nothing")
        if len(engines) > 1:
            raise ValueError("rolled_back takes what is bound to one engine: another one has transactions of its own")
        if any(binding.is_inside for binding in self._bindings):
            raise ValueError("one of them is bound to a Connection already, whose transaction is somebody else's")
        if len({binding.is_async for binding in self._bindings}) > 1:
            raise TypeError("rolled_back takes what is sync or what is async, and not both at once")
        (engine,) = engines
        # SQLite's driver must begin no transactions of its own, or a savepoint is one.
        find(engine.dialect, "idemtable", None).prepare(engine)
        self._before: list[tuple[Any, dict[str, Any]]] = []

    @property
    def is_async(self) -> bool:
        """Whether it is to be entered by ``async with``."""
        return self._bindings[0].is_async

    def __enter__(self) -> Connection:
        if self.is_async:
            raise TypeError("what is async is rolled back by `async with rolled_back(…)`")
        self._connection = self._bindings[0].sessions().kw["bind"].connect()
        self._transaction = self._connection.begin()
        self._bind()
        return self._connection  # type: ignore[no-any-return]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._put_back()
        try:
            self._transaction.rollback()
        finally:
            self._connection.close()

    async def __aenter__(self) -> AsyncConnection:
        if not self.is_async:
            raise TypeError("what is sync is rolled back by `with rolled_back(…)`")
        self._connection = await self._bindings[0].sessions().kw["bind"].connect()
        self._transaction = await self._connection.begin()
        self._bind()
        return self._connection  # type: ignore[no-any-return]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._put_back()
        try:
            await self._transaction.rollback()
        finally:
            await self._connection.close()

    def _bind(self) -> None:
        for maker in (binding.sessions() for binding in self._bindings):
            self._before.append((maker, dict(maker.kw)))
            maker.configure(bind=self._connection, join_transaction_mode="create_savepoint")

    def _put_back(self) -> None:
        while self._before:
            maker, options = self._before.pop()
            maker.kw.clear()
            maker.kw.update(options)


def _binding(bind: Any) -> Binding | AsyncBinding:
    if isinstance(bind, BaseTable):
        return bind._settings.binding
    if isinstance(bind, sessionmaker | Engine):
        return Binding(bind)
    if is_async(bind):
        return AsyncBinding(bind)
    raise TypeError(f"rolled_back takes tables, sessionmakers and engines, not {bind!r}")
