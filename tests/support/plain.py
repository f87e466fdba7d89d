"""What is async, spoken to in plain calls: each one is awaited on an event loop in a thread of its own.

Business functions, written plainly for a Session, run inside ``AsyncSession.run_sync`` of an async function. Threads of a
test become tasks of that loop.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from sqlalchemy.util import await_only

from idemtable import AsyncIdemTable
from tests.support import PATIENCE

_END = object()


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        if threading.current_thread() is self._thread:  # a business function, inside run_sync, calls another one
            return await_only(coroutine)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


class PlainFunction:
    """An AsyncTransactional, called plainly."""

    def __init__(self, loop: Loop, function: Any) -> None:
        self._loop, self.inner = loop, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._loop.run(self.inner(*args, **kwargs))

    def outcome(self, *args: Any, **kwargs: Any) -> Any:
        return self._loop.run(self.inner.outcome(*args, **kwargs))

    def join(self, session: Any, *args: Any, **kwargs: Any) -> Any:
        return self._loop.run(self.inner.join(session, *args, **kwargs))

    def join_outcome(self, session: Any, *args: Any, **kwargs: Any) -> Any:
        return self._loop.run(self.inner.join_outcome(session, *args, **kwargs))


class PlainBlock:
    """An AsyncClaim as a plain context manager."""

    def __init__(self, loop: Loop, block: Any) -> None:
        self._loop, self._block = loop, block

    def __enter__(self) -> Any:
        return self._loop.run(self._block.__aenter__())

    def __exit__(self, *exc: Any) -> Any:
        return self._loop.run(self._block.__aexit__(*exc))


def as_async(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a business function of a Session into an async one of an AsyncSession."""

    @wraps(function)
    async def wrapper(session: Any, *args: Any, **kwargs: Any) -> Any:
        return await session.run_sync(lambda sync: function(sync, *args, **kwargs))

    wrapper.__annotations__ = dict(function.__annotations__)
    wrapper.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return wrapper


class PlainInbox:
    """An AsyncInbox, spoken to plainly."""

    def __init__(self, loop: Loop, inbox: Any) -> None:
        self._loop, self.inner = loop, inbox

    def transactional(self, **options: Any) -> Callable[[Callable[..., Any]], PlainFunction]:
        return lambda function: PlainFunction(self._loop, self.inner.transactional(**options)(as_async(function)))


class PlainTable:
    """An AsyncIdemTable, spoken to plainly."""

    def __init__(self, loop: Loop, table: AsyncIdemTable) -> None:
        self._loop, self.inner = loop, table

    def transactional(self, scope: str, **options: Any) -> Callable[[Callable[..., Any]], PlainFunction]:
        def decorator(function: Callable[..., Any]) -> PlainFunction:
            # Resolved here, where the test's own names are; the library would look where it is called from.
            returns = function.__annotations__.get("return")
            if "returns" not in options and returns is not None and not isinstance(returns, str):
                options["returns"] = returns
            return PlainFunction(self._loop, self.inner.transactional(scope, **options)(as_async(function)))

        return decorator

    def inbox(self, scope: str) -> PlainInbox:
        return PlainInbox(self._loop, self.inner.inbox(scope))

    def transaction(self, *args: Any, **kwargs: Any) -> PlainBlock:
        return PlainBlock(self._loop, self.inner.transaction(*args, **kwargs))

    def claim(self, *args: Any, **kwargs: Any) -> PlainBlock:
        return PlainBlock(self._loop, self.inner.claim(*args, **kwargs))

    def unseen(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        items = self.inner.unseen(*args, **kwargs)  # what is wrong with the arguments is told here

        async def step() -> Any:
            return await anext(items, _END)

        return iter(lambda: self._loop.run(step()), _END)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._loop.run(getattr(self.inner, name)(*args, **kwargs))
