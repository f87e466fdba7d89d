"""Many callers of the same keys for as long as something happens to a cluster, and what each of them got."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from idemtable import AsyncIdemTable, IdemTable
from tests.servers import Server
from tests.support.database import Base, effect
from tests.support.plain import Loop, PlainTable

CALLERS = 16
WAIT = timedelta(seconds=50)
PATIENCE = 120.0
AFTERWARDS = 100
"""Answers that must come when all is over: the load has not just ended."""


@dataclass
class Report:
    """What was called, and what came of it."""

    name: str
    answers: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """What was answered for each key, and how often."""
    errors: list[Exception] = field(default_factory=list)
    attempts: Counter[int] = field(default_factory=Counter)
    runs: int = 0
    """How often the function was begun."""
    faults: Counter[str] = field(default_factory=Counter)
    """What the drivers raised, by their codes."""
    moments: list[float] = field(default_factory=list)
    longest: float = 0.0
    """The longest call, in seconds."""

    @property
    def answered(self) -> int:
        return self.attempts.total()

    @property
    def hit(self) -> int:
        """How many answered calls needed more than one transaction."""
        return self.answered - self.attempts[1]

    @property
    def silence(self) -> float:
        """The longest time in which nobody got an answer."""
        return max((later - one for one, later in zip(self.moments, self.moments[1:], strict=False)), default=0.0)

    def __str__(self) -> str:
        kinds = Counter(f"{type(error).__name__} {code(error)}" for error in self.errors)
        return (
            f"{len(self.answers)} keys, {self.answered} answers, {self.runs} runs, "
            f"attempts {dict(sorted(self.attempts.items()))}, "
            f"longest call {self.longest:.1f} s, longest silence {self.silence:.1f} s, faults {dict(self.faults)}, "
            f"errors {dict(kinds)}"
        )


def code(error: BaseException) -> str:
    """A driver's own word for an error."""
    original = getattr(error, "orig", None) or error
    found = getattr(original, "sqlstate", None) or (original.args[0] if original.args else None)
    return (
        str(found)
        if isinstance(found, int) or (isinstance(found, str) and len(found) == 5)
        else type(original).__name__
    )


class Fleet:
    """Several clients of one cluster, each with an engine and a table of its own. As a context manager it closes them."""

    def __init__(self, engines: Sequence[Any], **settings: Any) -> None:
        self.engines = list(engines)
        self.loop = Loop() if any(isinstance(one, AsyncEngine) for one in engines) else None
        self.tables = [
            PlainTable(self.loop, AsyncIdemTable(one, **settings))
            if isinstance(one, AsyncEngine)
            else IdemTable(one, **settings)
            for one in engines
        ]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self.engines:
            if isinstance(engine, AsyncEngine):
                assert self.loop is not None
                self.loop.run(engine.dispose())
            else:
                engine.dispose()
        if self.loop is not None:
            self.loop.run(asyncio.sleep(0.1))  # what was hung up is closed by the loop's next turns
            self.loop.close()

    def orders(self, report: Report) -> list[Any]:
        """The same function for each client; it leaves one effect, whose id is its value."""

        def order_of(table: Any) -> Any:
            @table.transactional("cluster.order", key="key", wait=WAIT, returns=int, share_scope=True)
            def order(session: Any, key: str) -> int:
                report.runs += 1  # of many threads: now and then one is not counted
                return effect(session, key)

            return order

        return [order_of(table) for table in self.tables]

    @contextmanager
    def watched(self, report: Report) -> Iterator[None]:
        """Count what the drivers raise meanwhile."""

        def note(context: Any) -> None:
            report.faults[code(context.original_exception)] += 1

        engines = [getattr(engine, "sync_engine", engine) for engine in self.engines]
        for engine in engines:
            sa.event.listen(engine, "handle_error", note)
        try:
            yield
        finally:
            for engine in engines:
                sa.event.remove(engine, "handle_error", note)


def engine_for(url: sa.URL, **options: Any) -> Any:
    """An engine in the driver's own colour, with room for all callers."""
    usual: dict[str, Any] = {"pool_size": CALLERS, "max_overflow": CALLERS, "pool_timeout": PATIENCE}
    if url.get_driver_name() == "pymysql":
        usual["connect_args"] = {"ssl_disabled": True, "read_timeout": 30}
    if url.get_driver_name() in ("asyncmy", "asyncpg", "psycopg_async"):
        return create_async_engine(url, **{**usual, **options})
    return sa.create_engine(url, **{**usual, **options})


def urls(servers: Sequence[Server], database: str, driver: str) -> sa.URL:
    """The one URL of several servers of PostgreSQL's, of which that is taken that takes writes."""
    hosts = tuple(f"{server.host}:{server.port}" for server in servers)
    query: dict[str, Any] = {"host": hosts, "target_session_attrs": "read-write"}
    if "asyncpg" not in driver:
        query["connect_timeout"] = "2"
    return sa.URL.create(f"postgresql+{driver}", "postgres", database=database, query=query)


def furnish(url: sa.URL) -> None:
    """Make the tables, of the business and of the library."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
    IdemTable(engine).create_all()


def storm(
    fleet: Fleet,
    *,
    keys: int | None = None,
    callers: int = CALLERS,
    meanwhile: Callable[[Callable[[], None]], None] | None = None,
) -> Report:
    """Let every caller call every key, in the same order.

    Args:
        fleet: over whose clients the callers are spread.
        keys: how many; ``None`` goes on until `meanwhile` is over and AFTERWARDS more answers have come.
        callers: how many.
        meanwhile: what happens to the cluster; it begins when every caller has had an answer. It is given a function that
            comes back when AFTERWARDS more answers have come.
    """
    report = Report(f"k{uuid4().hex[:8]}")
    orders = fleet.orders(report)
    over, lock, warm = threading.Event(), threading.Condition(), threading.Barrier(callers + 1)

    def one(number: int) -> None:
        order = orders[number % len(orders)]
        for turn in count() if keys is None else range(keys):
            if over.is_set():
                return
            key, begun = f"{report.name}-{turn}", time.monotonic()
            try:
                outcome = order.outcome(key)
            except Exception as error:
                with lock:
                    report.errors.append(error)
            else:
                with lock:
                    report.answers[key][outcome.value] += 1
                    report.attempts[outcome.attempts] += 1
                    report.moments.append(time.monotonic())
            finally:
                with lock:
                    report.longest = max(report.longest, time.monotonic() - begun)
                    lock.notify_all()
            if turn == 0:
                warm.wait(PATIENCE)

    def more() -> None:
        with lock:
            wanted = report.answered + AFTERWARDS
            assert lock.wait_for(lambda: report.answered >= wanted, PATIENCE), f"nobody gets on: {report}"

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(callers)]
    with fleet.watched(report):
        for thread in threads:
            thread.start()
        try:
            warm.wait(PATIENCE)
            if meanwhile is not None:
                meanwhile(more)
            if keys is None:
                more()
        finally:
            if keys is None:
                over.set()
            deadline = time.monotonic() + PATIENCE
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), f"a caller never came back: {report}"
    print(report)
    return report


def check(report: Report, effects: Sequence[tuple[str, int]]) -> None:
    """Hold what was answered against what there is: one effect for each key, and nothing acknowledged lost.

    Args:
        report: of the load.
        effects: all that one node has, with their ids.
    """
    there: dict[str, list[int]] = defaultdict(list)
    for name, id in effects:
        if name.startswith(f"{report.name}-"):
            there[name].append(id)
    assert {name: ids for name, ids in there.items() if len(ids) != 1} == {}, "more than one effect for a key"
    lost = [key for key in report.answers if key not in there]
    assert lost == [], f"acknowledged and lost: {len(lost)} of {len(report.answers)}"
    others = {key: values for key, values in report.answers.items() if set(values) != set(there[key])}
    assert others == {}, "an answer that is not the effect's"
