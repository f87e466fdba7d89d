"""Many at once on one key, and the proof that they were."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.util import await_only

from tests.support import PATIENCE
from tests.support.database import Database, effect

T = TypeVar("T")

WAIT = timedelta(seconds=50)
"""Longer than anything here takes: a waiter that gives up is a failure, however slow the machine. MySQL's sessions wait as
long by themselves, and are told nothing then; the library's own five seconds they are told."""


def crowd(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Call from `count` threads that start together (on an async database: tasks of one loop).

    Returns:
        What each got, exceptions included.
    """
    barrier = threading.Barrier(count, timeout=PATIENCE)
    answers: list[Any] = [None] * count

    def one(number: int) -> None:
        try:
            barrier.wait()
            answers[number] = call(number)
        except BaseException as error:
            answers[number] = error

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "a caller never came back"
    return answers


class Beside:
    """A call in a thread beside the test."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._answer: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._call()
        except BaseException as error:
            self._error = error

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        """What the call gave; raises what it raised."""
        self._thread.join(2 * PATIENCE)
        assert self.over, "the call beside never came back"
        if self._error is not None:
            raise self._error
        return self._answer


def meanwhile(db: Database, wait: Callable[[], T]) -> T:
    """Wait inside a business function for something outside, without holding up the loop of an async database."""
    if db.is_async:
        return await_only(asyncio.to_thread(wait))  # type: ignore[no-any-return]
    return wait()


def until(
    true: Callable[[], object], what: str | Callable[[], str], *, patience: float = PATIENCE, every: float = 0.005
) -> None:
    """Come back when something is so; fail with `what` when it does not happen in time."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(every)  # between two looks at what rings no bell here; nothing is assumed after it


class Watch:
    """Who waits: by the server's own views, on SQLite by the BEGIN IMMEDIATE that were sent and have not come back."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._trying = 0

    def _count(self, statement: str | None, step: int) -> None:
        if statement == "BEGIN IMMEDIATE":
            with self._lock:
                self._trying += step

    def before(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self._count(statement, 1)

    def after(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self._count(statement, -1)

    def failed(self, context: Any) -> None:
        self._count(context.statement, -1)

    def waiting(self) -> int:
        return self._trying if self._db.kind == "sqlite" else self._db.waiting()

    def await_waiting(self, count: int) -> None:
        """Come back when `count` others wait for what one holds."""
        if self._db.kind != "sqlite":
            self._db.await_waiting(count)
            return
        until(lambda: self._trying >= count, f"{self._trying} of {count} wait")
        assert is_locked(self._db)


@contextmanager
def watching(db: Database, engine: Any = None) -> Iterator[Watch]:
    """Watch the database's engine, or another one on it."""
    watch = Watch(db)
    if db.kind != "sqlite":
        yield watch
        return
    engine = db.engine if engine is None else engine
    engine = getattr(engine, "sync_engine", engine)
    ears = {"before_cursor_execute": watch.before, "after_cursor_execute": watch.after, "handle_error": watch.failed}
    for name, ear in ears.items():
        event.listen(engine, name, ear)
    try:
        yield watch
    finally:
        for name, ear in ears.items():
            event.remove(engine, name, ear)


def is_locked(db: Database) -> bool:
    """Whether somebody holds the write lock of a SQLite file, by SQLite's own word."""
    raw = sqlite3.connect(str(db.sync_url.database), timeout=0, isolation_level=None)
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        return error.sqlite_errorname == "SQLITE_BUSY"
    finally:
        raw.close()
    return False


def one_run(answers: list[Any]) -> Any:
    """Check that one of many outcomes is the first run's and all others replay it; return the value."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    assert not errors, errors
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * (len(answers) - 1)
    assert all(answer.value == answers[0].value for answer in answers)
    return answers[0].value


@contextmanager
def held(db: Database, key: str = "k", scope: str = "order", idem: Any = None) -> Iterator[Beside]:
    """A first call that stays inside its function for as long as the block runs; yields it."""
    inside, leave = threading.Event(), threading.Event()

    @(idem or db.idem).transactional(scope, key="key", wait=WAIT, share_scope=True)
    def holder(session: Any, key: str) -> str:
        effect(session, key)
        inside.set()
        assert meanwhile(db, lambda: leave.wait(PATIENCE))
        return "held"

    call = Beside(lambda: holder.outcome(key))
    try:
        assert inside.wait(PATIENCE)
        yield call
    finally:
        leave.set()
    assert call.result().value == "held"


def backend_id(db: Database, session: Any) -> int:
    """The server's number for a session's connection."""
    sql = "SELECT pg_backend_pid()" if db.kind == "postgresql" else "SELECT connection_id()"
    return int(session.execute(sa.text(sql)).scalar_one())


def kill_backend(db: Database, number: int) -> None:
    """Make the server end one connection, and come back when it is gone."""
    if db.kind == "postgresql":
        assert db.execute(f"SELECT pg_terminate_backend({number})")[0][0]
        gone = f"SELECT 1 FROM pg_stat_activity WHERE pid = {number}"
        until(lambda: not db.execute(gone), f"connection {number} lives on")
        return

    def is_gone() -> bool:
        # Not by information_schema.processlist: it tells what each runs, and MySQL fails when that holds bytes (3854).
        try:
            db.execute(f"KILL {number}")
        except sa.exc.DatabaseError as error:
            if error.orig is None or error.orig.args[0] != 1094:  # unknown thread
                raise
            return True
        return False

    until(is_gone, f"connection {number} lives on")
