"""A desk: the tokens of a database, issued and redeemed in plain calls in either colour."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from tests.support import PATIENCE
from tests.support.database import Database
from tests.support.plain import Loop, PlainBlock, PlainFunction, as_async

HALF_AN_HOUR = timedelta(minutes=30)


class PlainTokens:
    """An AsyncTokens, spoken to plainly."""

    def __init__(self, loop: Loop, tokens: Any) -> None:
        self._loop, self.inner = loop, tokens

    def transactional(self, **options: Any) -> Callable[[Callable[..., Any]], PlainFunction]:
        return lambda function: PlainFunction(self._loop, self.inner.transactional(**options)(as_async(function)))

    def redeem(self, *args: Any, **kwargs: Any) -> PlainBlock:
        return PlainBlock(self._loop, self.inner.redeem(*args, **kwargs))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._loop.run(getattr(self.inner, name)(*args, **kwargs))


def desk(
    db: Database, scope: str = "checkout", *, ttl: timedelta = HALF_AN_HOUR, table: Any = None, **options: Any
) -> Any:
    """The tokens of one scope of a database's table, or of another table on it."""
    table = db.idem if table is None else table
    if db.loop is not None:
        return PlainTokens(db.loop, table.inner.tokens(scope, ttl=ttl, **options))
    return table.tokens(scope, ttl=ttl, **options)


class Gate:
    """Where a business function waits until the test lets it go on, in either colour."""

    def __init__(self, db: Database) -> None:
        self._loop = db.loop
        self.reached = threading.Event()
        self._open = threading.Event() if db.loop is None else asyncio.Event()

    def wait(self) -> None:
        self.reached.set()
        if self._loop is None:
            assert self._open.wait(PATIENCE)
        else:
            self._loop.run(asyncio.wait_for(self._open.wait(), PATIENCE))

    def open(self) -> None:
        if self._loop is None:
            self._open.set()
            return

        async def set() -> None:
            self._open.set()

        self._loop.run(set())


@contextmanager
def sent(db: Database) -> Iterator[list[str]]:
    """What goes to the database meanwhile: the statements, and BEGIN, COMMIT and ROLLBACK where SQLAlchemy sends them."""
    engine = getattr(db.engine, "sync_engine", db.engine)
    seen: list[str] = []

    def statement(connection: Any, cursor: Any, text: str, *rest: Any) -> None:
        seen.append(" ".join(text.split()))

    listeners = {
        "before_cursor_execute": statement,
        "begin": lambda connection: seen.append("begin"),
        "commit": lambda connection: seen.append("commit"),
        "rollback": lambda connection: seen.append("rollback"),
    }
    for name, listener in listeners.items():
        sa.event.listen(engine, name, listener)
    try:
        yield seen
    finally:
        for name, listener in listeners.items():
            sa.event.remove(engine, name, listener)
