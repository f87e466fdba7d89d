"""Random schedules of tasks and threads that call, join, cancel and raise inside calls: the books balance whatever happens.

A round is a tree of calls, drawn from a seed. Each call leaves two effects under its own key, then starts others inside it,
waits for some of them, cancels some, and ends. Afterwards

- every call has its row and both effects, or neither;
- a call of its own that answered is there; one inside another that answered is there if and only if that one is;
- one that failed is not there (a cancelled one may be: the cancellation may have come after COMMIT);
- whoever was cancelled is told so and nothing else, nothing hangs, and no connection, lock or frame is left.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from idemtable import IdempotencyError, RetryTransactionError
from idemtable.claim import nesting
from idemtable.claim.steps import Moment, Step
from tests.support.backends import db_of
from tests.support.database import Database
from tests.support.doors import HANG, Declined, Tasks, Threads, in_threads, on_a_loop

ROUNDS = 8
"""For each database: about a second."""
BRIEF = timedelta(milliseconds=60)
PATIENT = timedelta(seconds=2)
"""So long waits one for another, and one after the other: on SQLite each call beside a call waits for the whole of it."""


@dataclass
class Entry:
    """One attempt at one call."""

    key: str
    owned: bool
    attempt: int
    outer: tuple[str, int] | None
    """The call, and the attempt at it, in whose transaction it is."""


@dataclass
class Book:
    """What became of the calls of one round."""

    entries: dict[str, Entry] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    """What the caller of each call was told: "answer", "cancelled" or "error"."""
    running: dict[int, list[Any]] = field(default_factory=dict)
    mutex: Any = field(default_factory=threading.Lock)

    def note(self, moment: Moment) -> None:
        """Listen to the steps: calls in one session are a stack, whoever made them."""
        if moment.step is not Step.RUNNING:
            return
        frame = nesting._innermost.get()
        assert frame is not None
        with self.mutex:
            stack = self.running.setdefault(id(frame.session), [])
            while stack and (stack[-1][1].is_over or moment.owned):
                stack.pop()
            outer = stack[-1][0] if stack else None
            key = str(moment.request.key)
            stack.append(((key, moment.attempt), frame))
            self.entries[key] = Entry(key, moment.owned, moment.attempt, outer)

    def check(self, db: Database, seen: str) -> Counter[str]:
        effects = Counter(db.effects())
        rows = {row.key for row in db.rows()}
        for key, entry in self.entries.items():
            there = key in rows
            end = self.ends.get(key, "left")
            of_it = (effects[key], effects[f"{key}!"])
            what = f"{seen}: {entry}, {end}, row: {there}, effects: {of_it}"
            assert of_it == ((1, 1) if there else (0, 0)), what
            if entry.outer is not None:
                name, attempt = entry.outer
                outer_there = name in rows and self.entries[name].attempt == attempt  # or it has begun again without it
                assert outer_there or not there, f"{what}: it has survived its outer call"
                if end == "answer":
                    assert there is outer_there, what
            elif end == "answer":
                assert there, what
            if end == "error":
                assert not there, what
        assert sum(effects.values()) == 2 * len(rows), f"{seen}: {effects} {rows}"
        assert rows <= self.entries.keys(), seen
        ran = {key: end for key, end in self.ends.items() if key in self.entries}
        return Counter(f"{'own' if self.entries[key].owned else 'inner'} {end}" for key, end in ran.items())


def told(error: BaseException | None) -> str:
    """What an end is called; an exception that nobody here can have raised is raised again."""
    if error is None:
        return "answer"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, Declined | IdempotencyError | TimeoutError):
        return "error"
    raise error


class Round:
    """What is drawn from a seed, and what came of it."""

    def __init__(self, tables: Tasks | Threads, seed: int) -> None:
        self.chance = random.Random(seed)
        self.book = Book()
        self.numbers = itertools.count()
        self.started: list[Any] = []
        self.budget = self.chance.randint(4, 14)
        self.functions = [
            tables.function("brief", wait=BRIEF),
            tables.function("patient", wait=PATIENT),
            tables.function("patient", wait=PATIENT),
        ]


class TaskRound(Round):
    """A tree of calls in tasks."""

    def __init__(self, tasks: Tasks, seed: int) -> None:
        super().__init__(tasks, seed)
        self.tasks = tasks
        self.cancelled: set[asyncio.Task[Any]] = set()
        self.over = asyncio.Event()

    async def pause(self) -> None:
        for _ in range(self.chance.choice([0, 0, 1, 2, 5, 20])):
            await asyncio.sleep(0)
        if self.chance.random() < 0.15:
            await asyncio.sleep(self.chance.random() * 0.02)
        if self.chance.random() < 0.03:
            await self.over.wait()  # until everybody else has given up

    def cancel_somebody(self) -> None:
        running = [task for task in self.started if not task.done() and task is not asyncio.current_task()]
        if running:
            task = self.chance.choice(running)
            if task.cancel():
                self.cancelled.add(task)

    async def body(self, session: Any, key: str, depth: int) -> str:
        await self.tasks.leave(session, f"{key}!")
        children = []
        for _ in range(self.chance.choice([0, 1, 2, 3]) if depth < 3 else 0):
            if self.budget > 0:
                self.budget -= 1
                children.append(self.start(session, depth + 1))
        await self.pause()
        if children and self.chance.random() < 0.6:
            waited = [child for child in children if self.chance.random() < 0.8]
            if self.chance.random() < 0.2:
                async with asyncio.timeout(self.chance.random() * 0.02):
                    await asyncio.gather(*waited, return_exceptions=True)
            else:
                await asyncio.gather(*waited, return_exceptions=True)
        if self.chance.random() < 0.25:
            self.cancel_somebody()
        await self.pause()
        if self.chance.random() < 0.15:
            raise Declined
        if self.chance.random() < 0.05:
            raise RetryTransactionError("a deadlock")
        return "answer"

    def start(self, session: Any, depth: int) -> asyncio.Task[Any]:
        context = contextvars.copy_context() if self.chance.random() < 0.85 else contextvars.Context()
        task = asyncio.get_running_loop().create_task(self.call(session, depth), context=context)
        self.started.append(task)
        return task

    async def call(self, session: Any, depth: int) -> str:
        """Make a call in one of the ways there are; return what came of it."""
        await self.pause()
        function = self.chance.choice(self.functions)
        way = self.chance.choice(["call", "call", "block"] + (["call", "join", "claim"] if session is not None else []))
        name = f"{depth}.{next(self.numbers)}"
        error: BaseException | None = None
        try:
            if way == "call":
                await function(name, lambda session: self.body(session, name, depth))
            elif way == "join":
                await function.join(session, name, lambda session: self.body(session, name, depth))
            else:
                wait = self.chance.choice([BRIEF, PATIENT])
                idem = self.tasks.idem
                block = (
                    idem.transaction("block", name, wait=wait)
                    if way == "block"
                    else idem.claim(session, "block", name, wait=wait)
                )
                async with block as claim:
                    await self.tasks.leave(claim.session, name)
                    await self.body(claim.session, name, depth)
        except BaseException as caught:
            error = caught
        self.book.ends[name] = told(error)
        if isinstance(error, asyncio.CancelledError):
            raise error
        return f"{way} {name}: {error!r}"

    async def run(self) -> None:
        for _ in range(self.chance.randint(1, 2)):
            self.start(None, 0)
        deadline = time.monotonic() + 0.9 * HANG  # before all that is going on is cancelled
        while pending := [task for task in self.started if not task.done()]:
            await asyncio.wait(pending, timeout=0.3)
            if self.chance.random() < 0.3:
                self.cancel_somebody()
            if all(task.done() for task in pending):
                continue
            self.over.set()
            assert time.monotonic() < deadline, [task for task in self.started if not task.done()]
        # asyncmy connects inside asyncio.wait_for, which loses a cancellation now and then until Python 3.12.
        loses = self.tasks.db.url.get_driver_name() == "asyncmy" and sys.version_info < (3, 12)
        for task in () if loses else self.cancelled:
            assert task.cancelled() or task.exception(), f"was cancelled, and hears of {task.result()}"
        for task in self.started:
            if not task.cancelled():
                task.result()
        self.started.clear()
        self.cancelled.clear()
        self.book.running.clear()


def play_tasks(db: Database, seed: int) -> Counter[str]:
    db.sweep()
    rounds: list[Any] = []

    async def work(tasks: Tasks) -> Any:
        rounds.append(TaskRound(tasks, seed))
        tasks.keys.hooks.append(rounds[0].book.note)
        await rounds[0].run()

    on_a_loop(db, work)
    return rounds[0].book.check(db, f"seed {seed}")


@pytest.mark.parametrize("backend", ["sqlite-async", "postgresql18-asyncpg", "postgresql18-async", "mariadb-async"])
def test_the_books_balance_after_whatever_schedule_of_tasks(backend: str) -> None:
    db = db_of(backend)
    seen: Counter[str] = Counter()
    for seed in range(ROUNDS):
        seen += play_tasks(db, seed)
    assert {"own answer", "inner answer"} < seen.keys(), seen


class ThreadRound(Round):
    """A tree of calls in threads; nobody can be cancelled."""

    def __init__(self, threads: Threads, seed: int) -> None:
        super().__init__(threads, seed)
        self.threads = threads
        self.over = threading.Event()

    def pause(self) -> None:
        if self.chance.random() < 0.5:
            time.sleep(self.chance.random() * 0.01)
        if self.chance.random() < 0.03:
            self.over.wait(HANG)

    def body(self, session: Any, key: str, depth: int) -> str:
        self.threads.leave(session, f"{key}!")
        children = []
        for _ in range(self.chance.choice([0, 1, 2, 3]) if depth < 3 else 0):
            if self.budget > 0:
                self.budget -= 1
                children.append(self.start(session, depth + 1))
        self.pause()
        if self.chance.random() < 0.6:
            for child in children:
                if self.chance.random() < 0.8:
                    child.result()
        self.pause()
        if self.chance.random() < 0.15:
            raise Declined
        if self.chance.random() < 0.05:
            raise RetryTransactionError("a deadlock")
        return "answer"

    def start(self, session: Any, depth: int) -> Any:
        beside = self.threads.beside(lambda: self.call(session, depth), inherits=self.chance.random() < 0.85)
        self.started.append(beside)
        return beside

    def call(self, session: Any, depth: int) -> None:
        self.pause()
        function = self.chance.choice(self.functions)
        way = self.chance.choice(["call", "call", "block"] + (["call", "join", "claim"] if session is not None else []))
        name = f"{depth}.{next(self.numbers)}"
        error: BaseException | None = None
        try:
            if way == "call":
                function(name, lambda session: self.body(session, name, depth))
            elif way == "join":
                function.join(session, name, lambda session: self.body(session, name, depth))
            else:
                wait = self.chance.choice([BRIEF, PATIENT])
                idem = self.threads.idem
                block = (
                    idem.transaction("block", name, wait=wait)
                    if way == "block"
                    else idem.claim(session, "block", name, wait=wait)
                )
                with block as claim:
                    self.threads.leave(claim.session, name)
                    self.body(claim.session, name, depth)
        except BaseException as caught:
            error = caught
        self.book.ends[name] = told(error)

    def run(self) -> None:
        for _ in range(self.chance.randint(1, 2)):
            self.start(None, 0)
        begun = time.monotonic()
        while any(not one.over for one in self.started):
            time.sleep(0.01)
            if time.monotonic() > begun + 0.3:
                self.over.set()
            assert time.monotonic() < begun + HANG, "a thread hangs"
        for one in self.started:
            one.result()
        self.started.clear()
        self.book.running.clear()


def play_threads(db: Database, seed: int) -> Counter[str]:
    db.sweep()
    rounds: list[Any] = []

    def work(threads: Threads) -> None:
        rounds.append(ThreadRound(threads, seed))
        threads.keys.hooks.append(rounds[0].book.note)
        rounds[0].run()

    in_threads(db, work)
    return rounds[0].book.check(db, f"seed {seed}")


@pytest.mark.parametrize("backend", ["sqlite", "postgresql18", "mariadb"])
def test_the_books_balance_after_whatever_schedule_of_threads(backend: str) -> None:
    db = db_of(backend)
    seen: Counter[str] = Counter()
    for seed in range(ROUNDS):
        seen += play_threads(db, seed)
    assert {"own answer", "inner answer"} < seen.keys(), seen
