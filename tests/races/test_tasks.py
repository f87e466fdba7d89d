"""Native async: tasks started inside a call, gathered, timed out and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from idemtable import (
    AsyncIdemTable,
    IdemTable,
    LostClaimError,
    ReentrantCallError,
    RetryTransactionError,
    SessionNotUsableError,
)
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, Effect

ASYNC = [name for name in BACKENDS if "async" in name]


class Declined(Exception):
    pass


@pytest.fixture(params=ASYNC)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


def on_a_loop(db: Database, work: Callable[[AsyncIdemTable], Awaitable[Any]]) -> Any:
    """Run in an event loop of its own, as a program would; no connection may be left out of the pool."""

    async def main() -> Any:
        engine: AsyncEngine = create_async_engine(db.url, pool_size=20)
        try:
            answer = await asyncio.wait_for(work(AsyncIdemTable(engine)), 60)
            assert engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
            return answer
        finally:
            await engine.dispose()

    return asyncio.run(main())


def joined_only(db: Database) -> IdemTable:
    """Return a table for sync functions that a session of an async one is handed to."""
    return IdemTable(create_async_engine(db.url).sync_engine)


async def leave(session: AsyncSession, name: str) -> str:
    session.add(Effect(name=name))
    await session.flush()
    return name


def test_gathered_tasks_on_one_key_leave_one_effect_and_one_reply(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> list[Any]:
        @idem.transactional("order", key="key")
        async def order(session: AsyncSession, key: str) -> str:
            return await leave(session, key)

        return await asyncio.gather(*(order.outcome("k") for _ in range(8)))

    outcomes = on_a_loop(db, work)
    assert sorted(outcome.replayed for outcome in outcomes) == [False] + [True] * 7
    assert db.effects() == ["k"]


def test_calls_gathered_inside_a_call_join_it_one_after_the_other(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> list[Any]:
        @idem.transactional("inner", key="key")
        async def inner(session: AsyncSession, key: str) -> str:
            await leave(session, f"{key} begins")
            await asyncio.sleep(0)
            return await leave(session, f"{key} ends")

        @idem.transactional("outer", key="key")
        async def outer(session: AsyncSession, key: str) -> list[str]:
            gathered = await asyncio.gather(inner("a"), inner("b"), inner("a"))
            return [*gathered, await asyncio.wait_for(inner("c"), 30)]

        return [await outer.outcome("k"), await outer.outcome("k"), await inner.outcome("b")]

    first, second, b = on_a_loop(db, work)
    assert first.value == second.value == ["a ends", "b ends", "a ends", "c ends"]
    assert (first.replayed, second.replayed, b.replayed) == (False, True, True)
    assert db.effects() == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]
    assert len(db.rows()) == 4


def test_one_of_the_gathered_that_fails_takes_only_its_own_effect_with_it(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> list[Any]:
        @idem.transactional("inner", key="key")
        async def inner(session: AsyncSession, key: str) -> str:
            await leave(session, key)
            if key == "b":
                raise Declined(key)
            return key

        @idem.transactional("outer", key="key")
        async def outer(session: AsyncSession, key: str) -> list[str]:
            answers = await asyncio.gather(*(inner(name) for name in "abc"), return_exceptions=True)
            return [str(type(answer).__name__) for answer in answers]

        return await outer("k")

    assert on_a_loop(db, work) == ["str", "Declined", "str"]
    assert db.effects() == ["a", "c"]
    assert sorted(row.key for row in db.rows()) == ["a", "c", "k"]


def test_when_the_outer_call_fails_nothing_of_the_gathered_stays(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> None:
        @idem.transactional("inner", key="key")
        async def inner(session: AsyncSession, key: str) -> str:
            return await leave(session, key)

        @idem.transactional("outer", key="key")
        async def outer(session: AsyncSession, key: str) -> None:
            await asyncio.gather(inner("a"), inner("b"))
            raise Declined

        with pytest.raises(Declined):
            await outer("k")

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


def test_an_inner_call_that_runs_out_of_time_is_undone_and_the_outer_goes_on(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> tuple[Any, Any]:
        never = asyncio.Event()
        reached: list[str] = []

        @idem.transactional("inner", key="key")
        async def inner(session: AsyncSession, key: str) -> str:
            await leave(session, key)
            if not reached:
                reached.append(key)
                await never.wait()
            return key

        @idem.transactional("outer", key="key")
        async def outer(session: AsyncSession, key: str) -> str:
            task = asyncio.ensure_future(inner("slow"))
            while not reached:
                await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0)
            await leave(session, "outer")
            return await inner("next")

        return await outer("k"), await inner.outcome("slow")

    answer, slow = on_a_loop(db, work)
    assert answer == "next"
    assert not slow.replayed
    assert db.effects() == ["outer", "next", "slow"]


def test_the_same_key_inside_itself_is_refused_in_another_task_too(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> None:
        @idem.transactional("order", key="key")
        async def order(session: AsyncSession, key: str, depth: int = 0) -> str:
            if depth == 0:
                with pytest.raises(ReentrantCallError):
                    await asyncio.gather(order(key, 1))
            return await leave(session, key)

        assert await order("k") == "k"

    on_a_loop(db, work)
    assert db.effects() == ["k"]


def test_a_task_that_outlives_the_call_that_started_it_gets_a_transaction_of_its_own(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> tuple[str, str]:
        done = asyncio.Event()
        tasks: list[asyncio.Task[str]] = []

        @idem.transactional("later", key="key")
        async def later(session: AsyncSession, key: str) -> str:
            return await leave(session, key)

        async def afterwards() -> str:
            await done.wait()
            return await later("late")

        @idem.transactional("order", key="key")
        async def order(session: AsyncSession, key: str) -> str:
            tasks.append(asyncio.ensure_future(afterwards()))
            return await leave(session, key)

        answer = await order("k")
        done.set()
        return answer, await tasks[0]

    assert on_a_loop(db, work) == ("k", "late")
    assert db.effects() == ["k", "late"]


def test_two_levels_of_gathered_calls_end_in_one_commit(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> Any:
        @idem.transactional("leaf", key="key")
        async def leaf(session: AsyncSession, key: str) -> str:
            return await leave(session, key)

        @idem.transactional("branch", key="key")
        async def branch(session: AsyncSession, key: str) -> list[str]:
            return list(await asyncio.gather(leaf(f"{key}1"), leaf(f"{key}2")))

        @idem.transactional("tree", key="key")
        async def tree(session: AsyncSession, key: str) -> list[list[str]]:
            return list(await asyncio.gather(branch("a"), branch("b")))

        return await tree("k")

    assert on_a_loop(db, work) == [["a1", "a2"], ["b1", "b2"]]
    assert db.effects() == ["a1", "a2", "b1", "b2"]


def test_a_call_that_ends_before_one_inside_it_commits_nothing(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> Any:
        middle, go_on = asyncio.Event(), asyncio.Event()

        @idem.transactional("inner", key="key")
        async def inner(session: AsyncSession, key: str) -> str:
            await leave(session, f"{key} 1")
            middle.set()
            await go_on.wait()
            return await leave(session, f"{key} 2")

        started: list[asyncio.Task[Any]] = []

        @idem.transactional("outer", key="key", wait=timedelta(milliseconds=200))
        async def outer(session: AsyncSession, key: str) -> str:
            started.append(asyncio.create_task(inner("good")))
            await middle.wait()
            return await leave(session, "outer")

        with pytest.raises(LostClaimError, match="still running"):
            await outer("k")
        go_on.set()
        with pytest.raises(Exception):  # noqa: B017 - whatever is left of its transaction says
            await started[0]
        return await idem.get("inner", "good"), await idem.get("outer", "k")

    assert on_a_loop(db, work) == (None, None)
    assert db.effects() == []


def test_a_call_that_still_waits_for_its_turn_at_the_end_is_sent_away_and_has_run_nothing(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> Any:
        ran: list[str] = []
        go_on = asyncio.Event()

        @idem.transactional("inner", key="key")
        async def inner(session: AsyncSession, key: str) -> str:
            ran.append(key)
            await go_on.wait()
            return await leave(session, key)

        tasks: list[asyncio.Task[str]] = []

        @idem.transactional("outer", key="key")
        async def outer(session: AsyncSession, key: str) -> str:
            await leave(session, key)  # before: what it did meanwhile would be two at work in one session
            tasks.extend(asyncio.create_task(inner(name)) for name in ("first", "late"))
            while not ran:
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.05, go_on.set)
            return key

        await outer("k")
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return ran, answers, await idem.get("inner", "late")

    ran, (first, late), record = on_a_loop(db, work)
    assert (ran, first, record) == (["first"], "first", None)
    assert isinstance(late, RetryTransactionError)
    assert sorted(db.effects()) == ["first", "k"]


def test_sync_functions_that_tasks_join_through_run_sync_take_turns_and_the_loop_goes_on(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> list[str]:
        @joined_only(db).transactional("line", key="key")
        def line(session: Session, key: str) -> str:
            for name in (f"{key} begins", f"{key} ends"):
                session.add(Effect(name=name))
                session.flush()
                await_only(asyncio.sleep(0))
            return key

        @idem.transactional("order", key="key")
        async def order(session: AsyncSession, key: str) -> list[str]:
            return await asyncio.gather(*(session.run_sync(partial(line.join, key=name)) for name in "abc"))

        return await order("k")

    assert on_a_loop(db, work) == ["a", "b", "c"]
    assert db.effects() == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


def test_a_sync_function_joined_through_run_sync_ends_after_the_task_that_has_joined_it(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> Any:
        tasks: list[asyncio.Task[str]] = []
        table, inside, go_on = joined_only(db), asyncio.Event(), asyncio.Event()

        @table.transactional("inner", key="key")
        def inner(session: Session, key: str) -> str:
            inside.set()
            await_only(go_on.wait())
            session.add(Effect(name=key))
            session.flush()
            return key

        @table.transactional("line", key="key", payload=("key",))
        def line(session: Session, key: str, outer: Any) -> str:
            tasks.append(asyncio.create_task(outer.run_sync(partial(inner.join, key="inner"))))
            await_only(inside.wait())
            asyncio.get_running_loop().call_later(0.05, go_on.set)
            return key

        @idem.transactional("order", key="key")
        async def order(session: AsyncSession, key: str) -> str:
            return await session.run_sync(partial(line.join, key="line", outer=session))

        return await order("k"), await tasks[0]

    assert on_a_loop(db, work) == ("line", "inner")
    assert db.effects() == ["inner"]
    assert len(db.rows()) == 3


def test_a_call_in_a_listener_of_its_own_calls_commit_comes_too_late_and_the_function_runs_once(db: Database) -> None:
    async def work(idem: AsyncIdemTable) -> list[str]:
        runs: list[str] = []

        @idem.transactional("late", key="key")
        async def late(session: AsyncSession, key: str) -> str:
            return await leave(session, key)

        @idem.transactional("order", key="key")
        async def order(session: AsyncSession, key: str) -> str:
            runs.append(key)
            event.listen(session.sync_session, "before_commit", lambda _: await_only(late.join(session, "late")))
            return await leave(session, key)

        with pytest.raises(SessionNotUsableError, match="is being committed or undone: make this call inside"):
            await order("k")
        return runs

    assert on_a_loop(db, work) == ["k"]
    assert (db.effects(), db.rows()) == ([], [])
