"""Calls inside calls, on a loop or in threads: functions whose bodies a test gives, and what must be so afterwards."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import sqlalchemy as sa

from idemtable import AsyncIdemTable, IdempotencyError, IdemTable, InProgressError
from idemtable.claim import nesting, steps
from idemtable.claim.door import Door
from idemtable.claim.steps import Moment
from tests.support.crowd import Beside, until
from tests.support.database import Database, Effect

HANG = float(os.environ.get("HANG", "30"))
"""Seconds after which something hangs, however slow the machine."""
LONG = timedelta(seconds=50)
"""A wait that nobody is to wait out."""
SHORT = timedelta(milliseconds=150)
"""A wait that somebody is to wait out."""


class Declined(Exception):
    """An answer of the business."""


class _Probed(Exception):
    pass


def door() -> Door:
    """The door of the innermost call that the code which asks is part of."""
    frame = nesting._innermost.get()
    assert frame is not None
    return frame.door


@dataclass
class Keys:
    """Listens to the steps of one table's calls: which keys it saw, and what is to happen at one of them."""

    seen: set[tuple[str, str]] = field(default_factory=set)
    hooks: list[Callable[[Moment], object]] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        self.seen.add((moment.request.scope, str(moment.request.key)))
        for hook in tuple(self.hooks):
            hook(moment)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep the pool's reports of connections that were cut from pytest, which would keep the calls in their tracebacks."""
    logger = logging.getLogger("sqlalchemy.pool")
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)


def checked_out(engine: Any) -> int:
    return int(getattr(engine, "sync_engine", engine).pool.checkedout())


_followed = count()


@contextmanager
def followed() -> Iterator[WeakSet[Any]]:
    """Yield the calls that somebody still knows of; in the end it may be nobody."""
    known: WeakSet[Any] = WeakSet()

    class Followed(nesting.Frame):
        __slots__ = ("__weakref__",)

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            known.add(self)

    if next(_followed) % 50 == 0:
        # What is here is none of it, and need not be looked through hundreds of times. Never thawed: that would bring back
        # all that was frozen when the tests had been collected.
        gc.collect()
        gc.freeze()
    with patch.object(nesting, "Frame", Followed):
        yield known
    until(lambda: not known or (gc.collect() and False), "somebody still knows of a call that has ended")


# --- tasks ------------------------------------------------------------------------------------------------------------


class Tasks:
    """An async table whose functions do what a test gives them to do."""

    def __init__(self, db: Database, engine: Any) -> None:
        self.db, self.engine = db, engine
        self.idem = AsyncIdemTable(engine)
        self.keys = Keys()

    def function(self, scope: str, wait: timedelta = LONG, **options: Any) -> Any:
        """A function that leaves its key behind and then does what it was given to do."""

        @self.idem.transactional(scope, key="key", payload=None, returns=Any, share_scope=True, wait=wait, **options)
        async def function(session: Any, key: str, body: Callable[[Any], Awaitable[Any]] | None = None) -> Any:
            await self.leave(session, key)
            return key if body is None else await body(session)

        return function

    async def leave(self, session: Any, name: str) -> str:
        session.add(Effect(name=name))
        await session.flush()
        return name

    async def probe(self) -> None:
        """Call again with every key: nobody holds one."""
        for scope, key in sorted(self.keys.seen):

            @self.idem.transactional(scope, key="key", payload=None, returns=Any, share_scope=True)
            async def again(session: Any, key: str) -> None:
                raise _Probed

            try:
                await again(key)
            except _Probed:
                pass
            except InProgressError as error:
                raise AssertionError(f"{scope} {key} is still held by somebody") from error
            except IdempotencyError:
                pass


def on_a_loop(db: Database, work: Callable[[Tasks], Awaitable[Any]]) -> Any:
    """Run in an event loop of its own; afterwards no task, connection, lock or frame of a call may be left."""

    async def main() -> Any:
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(db.url, pool_size=10, max_overflow=0, poolclass=sa.AsyncAdaptedQueuePool)
        tasks = Tasks(db, engine)
        try:
            with steps.listening(tasks.keys):
                async with asyncio.timeout(HANG):
                    answer = await work(tasks)
                    while others := {task for task in asyncio.all_tasks() if _is_ours(task)}:
                        _, pending = await asyncio.wait(others, timeout=HANG / 2)
                        assert not pending, [line for task in pending for line in _stack(task)]
            assert checked_out(engine) == 0, f"{checked_out(engine)} connections are out"
            async with asyncio.timeout(HANG):
                await contextvars.Context().run(asyncio.create_task, tasks.probe())
            return answer
        finally:
            await engine.dispose()

    with followed(), _unlogged():
        return contextvars.Context().run(asyncio.run, main())


async def so(condition: Callable[[], object]) -> None:
    """Come back, looking again after each round of the loop, when something is so."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


async def closed(door: Door) -> None:
    """Come back when a call is ending."""
    await so(lambda: not door.is_open)


async def queued(door: Door, count: int = 1) -> None:
    """Come back when so many wait for their turn."""
    await so(lambda: len(door._queue) == count)


# --- threads ----------------------------------------------------------------------------------------------------------


class Threads:
    """The same for a sync table."""

    def __init__(self, db: Database, engine: Any, known: WeakSet[Any]) -> None:
        self.db, self.engine, self.known = db, engine, known
        self.idem = IdemTable(engine)
        self.keys = Keys()
        self._beside: list[Beside] = []

    def function(self, scope: str, wait: timedelta = LONG, **options: Any) -> Any:
        @self.idem.transactional(scope, key="key", payload=None, returns=Any, share_scope=True, wait=wait, **options)
        def function(session: Any, key: str, body: Callable[[Any], Any] | None = None) -> Any:
            self.leave(session, key)
            return key if body is None else body(session)

        return function

    def leave(self, session: Any, name: str) -> str:
        session.add(Effect(name=name))
        session.flush()
        return name

    def beside(self, work: Callable[[], Any], *, inherits: bool = True) -> Beside:
        """Start a thread which inherits the context, as those of `asyncio.to_thread` do."""
        context = contextvars.copy_context() if inherits else contextvars.Context()
        self._beside.append(Beside(lambda: context.run(work)))
        return self._beside[-1]

    def join(self) -> None:
        for beside in self._beside:
            until(lambda beside=beside: beside.over, "a thread never came back")
        self._beside.clear()  # they know the contexts that they inherited, and those know of calls

    def probe(self) -> None:
        for scope, key in sorted(self.keys.seen):

            @self.idem.transactional(scope, key="key", payload=None, returns=Any, share_scope=True)
            def again(session: Any, key: str) -> None:
                raise _Probed

            try:
                again(key)
            except _Probed:
                pass
            except InProgressError as error:
                raise AssertionError(f"{scope} {key} is still held by somebody") from error
            except IdempotencyError:
                pass


def in_threads(db: Database, work: Callable[[Threads], Any]) -> Any:
    """Run on an engine of its own; afterwards no thread, connection, lock or frame of a call may be left."""

    def main(known: WeakSet[Any]) -> Any:
        options: dict[str, Any] = {"pool_size": 10, "max_overflow": 0, "poolclass": sa.QueuePool}
        if db.kind == "mariadb":
            options["connect_args"] = {"ssl_disabled": True}  # PyMySQL reads the machine's certificates each time
        engine = sa.create_engine(db.url, **options)
        threads = Threads(db, engine, known)
        try:
            with steps.listening(threads.keys):
                answer = work(threads)
                threads.join()
            until(lambda: checked_out(engine) == 0, f"{checked_out(engine)} connections are out")
            contextvars.Context().run(threads.probe)
            return answer
        finally:
            engine.dispose()

    with followed() as known, _unlogged():
        return contextvars.Context().run(main, known)


def at_door(door: Door, count: int = 1) -> None:
    """Come back when so many threads wait for their turn."""
    until(lambda: len(door._queue) == count, f"{len(door._queue)} of {count} wait")


def is_closed(door: Door) -> None:
    """Come back when a call is ending."""
    until(lambda: not door.is_open, "the call does not end")


def caught(work: Callable[[], Any]) -> Any:
    """What a call gives or raises."""
    try:
        return work()
    except BaseException as error:
        return error


def wait_for(event: threading.Event) -> None:
    assert event.wait(HANG)


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """Say whether somebody may wait for a task's end.

    What SQLAlchemy leaves behind to close a connection, when a cancellation comes between, waits for ever with
    aiosqlite: the connection's thread has ended when it is asked to. The connection is closed.
    """
    return task is not asyncio.current_task() and "_terminate_graceful_close" not in repr(task)


def _stack(task: asyncio.Task[Any]) -> list[str]:
    """Where a task hangs."""
    lines, waits = [], task.get_coro()
    while waits is not None:
        code = getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)
        lines.append(f"{code.f_code.co_qualname}:{code.f_lineno}" if code else repr(waits))
        waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
    return lines
