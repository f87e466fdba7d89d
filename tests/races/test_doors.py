"""Tasks inside a call: one at a time, none once it ends, and none that outlives it as a success."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from idemtable import (
    FingerprintMismatchError,
    InProgressError,
    LostClaimError,
    ReentrantCallError,
    RetryTransactionError,
)
from idemtable.claim.steps import Moment, Step
from tests.support.backends import db_of
from tests.support.database import Database
from tests.support.doors import LONG, SHORT, Declined, Tasks, checked_out, closed, door, on_a_loop, queued, so
from tests.support.guards import Order, empty_shop
from tests.support.newest import NEWEST

ASYNC = [name for name in NEWEST if "async" in name]


@pytest.fixture(params=ASYNC)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(params=[name for name in ASYNC if not name.startswith("sqlite")])
def server_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


class Guest:
    """The body of a call inside: says when it has begun, and goes on when it is told to."""

    def __init__(self, tasks: Tasks, name: str = "guest's last") -> None:
        self._tasks, self._name = tasks, name
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.ended = False

    async def __call__(self, session: AsyncSession) -> str:
        self.begun.set()
        await self.go_on.wait()
        await self._tasks.leave(session, self._name)
        self.ended = True
        return self._name


async def answers(*tasks: Any) -> list[Any]:
    return list(await asyncio.gather(*tasks, return_exceptions=True))


# --- the outer call succeeds ------------------------------------------------------------------------------------------


def test_a_call_that_ends_waits_for_the_one_inside_and_both_are_committed(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        started: list[Any] = []

        async def body(session: AsyncSession) -> str:
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            started.append(asyncio.create_task(release(door())))
            return "done"

        async def release(of_outer: Any) -> None:
            await closed(of_outer)
            assert not guest.ended
            guest.go_on.set()

        return await outer("k", body), await answers(*started), (await tasks.idem.get("inner", "a")) is not None

    assert on_a_loop(db, work) == ("done", ["guest's last", None], True)
    assert db.effects() == ["k", "a", "guest's last"]


def test_a_call_that_begins_while_the_one_that_started_it_ends_is_one_of_its_own(server_db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        started: list[Any] = []

        async def late(of_outer: Any) -> str:
            await closed(of_outer)
            moments: list[Moment] = []
            tasks.keys.hooks.append(moments.append)
            answer = await inner("late")
            assert {moment.owned for moment in moments} == {True}
            guest.go_on.set()
            return answer

        async def body(session: AsyncSession) -> None:
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            started.append(asyncio.create_task(late(door())))
            await asyncio.sleep(0)
            raise Declined

        with pytest.raises(Declined):
            await outer("k", body)
        return await answers(*started)

    assert on_a_loop(server_db, work) == ["guest's last", "late"]
    assert server_db.effects() == ["late"]


def test_three_levels_end_from_the_innermost_to_the_outermost(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        tree, branch, leaf = (tasks.function(scope) for scope in ("tree", "branch", "leaf"))
        guest, started, doors = Guest(tasks), [], []

        async def in_branch(session: AsyncSession) -> str:
            doors.append(door())
            started.append(asyncio.create_task(leaf("l", guest)))
            await guest.begun.wait()
            return "branch"

        async def in_tree(session: AsyncSession) -> str:
            doors.append(door())
            started.append(asyncio.create_task(branch("b", in_branch)))
            await guest.begun.wait()
            started.append(asyncio.create_task(release()))
            return "tree"

        async def release() -> None:
            for one in doors:
                await closed(one)
            guest.go_on.set()

        answer = await tree("t", in_tree)
        assert [task.done() for task in started[:2]] == [True, True]
        return answer, [await task for task in started]

    answer, others = on_a_loop(db, work)
    assert (answer, sorted(map(str, others))) == ("tree", ["None", "branch", "guest's last"])
    assert db.effects() == ["t", "b", "l", "guest's last"]


# --- the outer call fails ---------------------------------------------------------------------------------------------


def test_a_call_that_raises_waits_for_the_one_inside_and_raises_its_own_error(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        started: list[Any] = []

        async def body(session: AsyncSession) -> None:
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            started.append(asyncio.create_task(release(door())))
            raise Declined("own")

        async def release(of_outer: Any) -> None:
            await closed(of_outer)
            guest.go_on.set()

        with pytest.raises(Declined, match="own"):
            await outer("k", body)
        assert guest.ended
        await answers(*started)

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


HOWS = ["once", "twice", "timeout", "sibling", "anyio"]


async def cancelled(how: str, outer: Callable[[], Any], ready: asyncio.Event, of_outer: list[Any]) -> None:
    """Run an outer call and cancel it in some way when it is ready."""
    if how == "anyio":
        import anyio

        async def cancel() -> None:
            await ready.wait()
            scope.cancel()

        canceller = asyncio.create_task(cancel())
        with anyio.CancelScope() as scope:
            await outer()
        assert scope.cancelled_caught
        await canceller
        return
    if how == "sibling":

        async def sibling() -> None:
            await ready.wait()
            raise Declined("sibling")

        with pytest.raises(ExceptionGroup) as group:
            async with asyncio.TaskGroup() as tg:
                tg.create_task(outer())
                tg.create_task(sibling())
        assert [str(error) for error in group.value.exceptions] == ["sibling"]
        return
    if how == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as scope:

                async def expire() -> None:
                    await ready.wait()
                    scope.reschedule(0)

                expiring = asyncio.create_task(expire())
                await outer()
        await expiring
        return
    task = asyncio.create_task(outer())
    await ready.wait()
    task.cancel()
    if how == "twice":
        await closed(of_outer[0])
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("how", HOWS)
def test_a_call_that_is_cancelled_with_one_at_work_inside_is_cancelled_and_leaves_nothing(
    db: Database, how: str
) -> None:
    if how == "anyio":
        pytest.importorskip("anyio")

    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        started: list[Any] = []
        doors: list[Any] = []
        ready = asyncio.Event()

        async def release(of_outer: Any) -> None:
            await closed(of_outer)
            if how != "twice":
                guest.go_on.set()

        async def body(session: AsyncSession) -> None:
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            doors.append(door())
            started.append(asyncio.create_task(release(door())))
            ready.set()
            await asyncio.Event().wait()

        await cancelled(how, lambda: outer("k", body), ready, doors)
        assert how in ("twice", "anyio") or guest.ended  # it was waited for
        guest.go_on.set()
        await answers(*started)

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


@pytest.mark.parametrize("how", HOWS)
def test_a_call_that_is_cancelled_sends_away_who_waits_for_a_turn(db: Database, how: str) -> None:
    if how == "anyio":
        pytest.importorskip("anyio")

    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        started: list[Any] = []
        doors: list[Any] = []
        ready = asyncio.Event()
        ran: list[str] = []

        async def never(session: AsyncSession) -> None:
            ran.append("ran")

        async def body(session: AsyncSession) -> None:
            started.extend([asyncio.create_task(inner("a", guest)), asyncio.create_task(inner("b", never))])
            await guest.begun.wait()
            await queued(door())
            doors.append(door())
            ready.set()
            await asyncio.Event().wait()

        async def release() -> None:
            await ready.wait()
            await closed(doors[0])
            if how != "twice":
                guest.go_on.set()

        releasing = asyncio.create_task(release())
        await cancelled(how, lambda: outer("k", body), ready, doors)
        guest.go_on.set()
        await releasing
        _, waiting = await answers(*started)
        assert isinstance(waiting, RetryTransactionError)
        return ran

    assert on_a_loop(db, work) == []
    assert (db.effects(), db.rows()) == ([], [])


@pytest.mark.parametrize("how", ["once", "twice"])
def test_a_call_that_is_cancelled_waits_for_one_that_was_just_granted_its_turn(db: Database, how: str) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        started: list[Any] = []
        doors: list[Any] = []
        task: Any = None

        def cancel(moment: Moment) -> None:
            # The turn ends, and is granted to the next one, before the loop goes round again.
            if moment.request.key == "a" and moment.step is Step.COMMITTED:
                task.cancel()

        async def second(session: AsyncSession) -> str:
            assert not doors[0].is_open
            if how == "twice":
                task.cancel()
                await asyncio.sleep(0)
            return await tasks.leave(session, "second")

        async def body(session: AsyncSession) -> None:
            doors.append(door())
            started.extend([asyncio.create_task(inner("a", guest)), asyncio.create_task(inner("b", second))])
            await guest.begun.wait()
            await queued(door())
            tasks.keys.hooks.append(cancel)
            guest.go_on.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(outer("k", body))
        with pytest.raises(asyncio.CancelledError):
            await task
        first, second_answer = await answers(*started)
        assert first == "guest's last"
        assert how == "twice" or second_answer == "second"

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


def test_a_cancellation_while_a_failed_call_waits_is_not_replaced(db: Database) -> None:
    """The call has an error that would ask its caller to begin again, and is cancelled while it waits for its guest."""

    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        started: list[Any] = []
        doors: list[Any] = []

        async def body(session: AsyncSession) -> None:
            doors.append(door())
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            lost = sa.exc.OperationalError("SELECT", {}, Exception("lost"), connection_invalidated=True)
            raise lost

        async def joined() -> None:
            async with AsyncSession(tasks.engine) as session:
                await outer.join(session, "k", body)

        task = asyncio.create_task(joined())
        await so(lambda: doors)
        await closed(doors[0])
        task.cancel()
        await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        started[0].cancel()  # the session is the caller's, and what is written there now would be in it
        await answers(*started)

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


# --- the inner call fails ---------------------------------------------------------------------------------------------


def test_a_call_inside_that_is_cancelled_at_work_is_undone_and_the_next_one_comes_in(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)

        async def body(session: AsyncSession) -> Any:
            first, second = asyncio.create_task(inner("a", guest)), asyncio.create_task(inner("b"))
            await guest.begun.wait()
            await queued(door())
            first.cancel()
            return [type(answer).__name__ for answer in await answers(first, second)]

        return await outer("k", body)

    assert on_a_loop(db, work) == ["CancelledError", "str"]
    assert db.effects() == ["k", "b"]


def test_a_call_inside_that_is_cancelled_while_it_waits_or_as_its_turn_comes_holds_nobody_up(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)

        async def body(session: AsyncSession) -> Any:
            first, waiting, granted, last = (
                asyncio.create_task(inner("a", guest)),
                *(asyncio.create_task(inner(key)) for key in "bcd"),
            )
            await guest.begun.wait()
            await queued(door(), 3)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

            def cancel(moment: Moment) -> None:
                if moment.request.key == "a" and moment.step is Step.COMMITTED:
                    asyncio.get_running_loop().call_soon(granted.cancel)

            tasks.keys.hooks.append(cancel)
            guest.go_on.set()
            return [type(answer).__name__ for answer in await answers(first, granted, last)]

        return await outer("k", body)

    assert on_a_loop(db, work) == ["str", "CancelledError", "str"]
    assert db.effects() == ["k", "a", "guest's last", "d"]


def test_a_turn_is_waited_for_at_most_so_long_and_the_others_go_on(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, hurried, outer = tasks.function("inner"), tasks.function("hurried", wait=SHORT), tasks.function("outer")
        guest = Guest(tasks)

        async def body(session: AsyncSession) -> Any:
            first = asyncio.create_task(inner("a", guest))
            await guest.begun.wait()
            with pytest.raises(InProgressError, match="still at work"):
                await hurried("h")
            guest.go_on.set()
            return [await first, await hurried("h")]

        return await outer("k", body)

    assert on_a_loop(db, work) == ["guest's last", "h"]
    assert db.effects() == ["k", "a", "guest's last", "h"]


def test_one_inside_that_waits_for_another_one_inside_does_not_wait_for_ever(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, hurried, outer = tasks.function("inner"), tasks.function("hurried", wait=SHORT), tasks.function("outer")

        async def body(session: AsyncSession) -> Any:
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def other() -> Any:
                await begun.wait()
                return await hurried("b")

            sibling = asyncio.create_task(other())

            async def waits(session: AsyncSession) -> str:
                begun.set()
                with pytest.raises(InProgressError):
                    await asyncio.shield(sibling)
                return "went on"

            go_on.set()
            return await inner("a", waits)

        return await outer("k", body)

    assert on_a_loop(db, work) == "went on"
    assert db.effects() == ["k", "a"]


# --- a session of the caller's ----------------------------------------------------------------------------------------


def test_two_tasks_that_join_one_session_take_turns_and_a_failure_undoes_its_own_effect_alone(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, guest = tasks.function("inner"), Guest(tasks)

        async def fails(session: AsyncSession) -> None:
            await guest(session)
            raise Declined

        async with AsyncSession(tasks.engine) as session, session.begin():
            await tasks.leave(session, "caller's")
            first = asyncio.create_task(inner.join(session, "a", fails))
            await guest.begun.wait()
            second = asyncio.create_task(inner.join(session, "b"))
            await queued(vars(session.sync_session)["idemtable_door"])
            guest.go_on.set()
            failed, answer = await answers(first, second)
        assert isinstance(failed, Declined)
        return answer

    assert on_a_loop(db, work) == "b"
    assert db.effects() == ["caller's", "b"]


def test_a_block_in_a_session_and_a_call_that_joins_it_take_turns(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner = tasks.function("inner")
        async with AsyncSession(tasks.engine) as session, session.begin():
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def block() -> None:
                async with tasks.idem.claim(session, "block", "b", wait=LONG) as claim:
                    await tasks.leave(claim.session, "block")
                    begun.set()
                    await go_on.wait()
                    raise Declined

            first = asyncio.create_task(block())
            await begun.wait()
            second = asyncio.create_task(inner.join(session, "a"))
            await queued(vars(session.sync_session)["idemtable_door"])
            go_on.set()
            failed, answer = await answers(first, second)
        assert isinstance(failed, Declined)
        return answer

    assert on_a_loop(db, work) == "a"
    assert db.effects() == ["a"]


def test_the_session_of_a_call_that_has_ended_is_joined_by_nobody(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer = tasks.function("inner"), tasks.function("outer")
        kept: list[AsyncSession] = []

        async def body(session: AsyncSession) -> str:
            kept.append(session)
            return "done"

        await outer("k", body)
        with pytest.raises(RetryTransactionError):
            await inner.join(kept[0], "a")
        with pytest.raises(RetryTransactionError):
            async with tasks.idem.claim(kept[0], "block", "b"):
                pytest.fail("the block ran")
        assert checked_out(tasks.engine) == 0

    on_a_loop(db, work)
    assert db.effects() == ["k"]


def test_who_waits_to_join_the_session_of_a_call_that_ends_is_sent_away(db: Database) -> None:
    """A task that was started before the call, and was handed its session."""

    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        handed: asyncio.Future[AsyncSession] = asyncio.get_running_loop().create_future()
        ran: list[str] = []

        async def never(session: AsyncSession) -> None:
            ran.append("ran")

        async def beside() -> Any:
            return await inner.join(await handed, "b", never)

        other = asyncio.create_task(beside())
        started: list[Any] = []

        async def release(of_outer: Any) -> None:
            await closed(of_outer)
            guest.go_on.set()

        async def body(session: AsyncSession) -> str:
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            handed.set_result(session)
            await queued(door())
            started.append(asyncio.create_task(release(door())))
            return "done"

        await outer("k", body)
        await answers(*started)
        with pytest.raises(RetryTransactionError):
            await other
        return ran

    assert on_a_loop(db, work) == []
    assert db.effects() == ["k", "a", "guest's last"]


# --- a guest that does not end ----------------------------------------------------------------------------------------

WAYS = ["call", "join", "block", "claim", "machine"]


async def come_in(tasks: Tasks, way: str, session: AsyncSession, guest: Guest) -> Any:
    """Be a guest in one of the ways there are."""
    if way == "call":
        return await tasks.function("inner")("a", guest)
    if way == "join":
        return await tasks.function("inner").join(session, "a", guest)
    if way == "block":
        async with tasks.idem.transaction("inner", "a", wait=LONG) as claim:
            return await guest(claim.session)
    async with tasks.idem.claim(session, "inner", "a", wait=LONG) as claim:
        return await guest(claim.session)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("way", ["call", "join", "block", "claim"])
def test_who_does_not_end_in_time_takes_the_call_and_its_connection_down(
    db: Database, way: str, fails: bool, level: int
) -> None:
    async def work(tasks: Tasks) -> Any:
        outer, middle, guest = tasks.function("outer", wait=SHORT), tasks.function("middle", wait=SHORT), Guest(tasks)
        started: list[Any] = []

        async def body(session: AsyncSession) -> str:
            started.append(asyncio.create_task(come_in(tasks, way, session, guest)))
            await guest.begun.wait()
            if fails:
                raise Declined
            return "done"

        async def level_up(session: AsyncSession) -> Any:
            return await middle("m", body)

        with pytest.raises(Declined if fails else LostClaimError):
            await outer("k", body if level == 1 else level_up)
        assert not guest.ended
        # Its key is free, and it is not restarted by what is left of the first call.
        assert await tasks.function("outer")("k") == "k"
        guest.go_on.set()
        (answer,) = await answers(*started)
        assert isinstance(answer, RetryTransactionError), answer

    on_a_loop(db, work)
    assert db.effects() == ["k"]


def test_an_outer_call_that_swallows_what_a_lasting_guest_did_to_the_middle_one_commits_nothing(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        outer, middle, inner = tasks.function("outer"), tasks.function("middle", wait=SHORT), tasks.function("inner")
        guest = Guest(tasks)
        started: list[Any] = []

        async def in_middle(session: AsyncSession) -> str:
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            return "done"

        async def in_outer(session: AsyncSession) -> str:
            with pytest.raises(LostClaimError):
                await middle("m", in_middle)
            return "swallowed"

        with pytest.raises((LostClaimError, sa.exc.SQLAlchemyError)):
            await outer("k", in_outer)
        guest.go_on.set()
        await answers(*started)

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


def test_a_guest_in_the_middle_of_a_statement_is_cut_off(server_db: Database) -> None:
    nap = "SELECT pg_sleep(1)" if server_db.kind == "postgresql" else "SELECT sleep(1)"

    async def work(tasks: Tasks) -> Any:
        inner, outer = tasks.function("inner"), tasks.function("outer", wait=SHORT)
        begun = asyncio.Event()
        started: list[Any] = []

        async def sleeps(session: AsyncSession) -> None:
            begun.set()
            await session.execute(sa.text(nap))

        async def body(session: AsyncSession) -> str:
            started.append(asyncio.create_task(inner("a", sleeps)))
            await begun.wait()
            return "done"

        with pytest.raises(LostClaimError):
            await outer("k", body)
        (answer,) = await answers(*started)
        assert isinstance(answer, RetryTransactionError), answer

    on_a_loop(server_db, work)
    assert (server_db.effects(), server_db.rows()) == ([], [])


def test_a_guest_at_work_is_cut_off_between_any_two_steps_of_its_driver_and_the_process_lives(db: Database) -> None:
    async def work(tasks: Tasks) -> None:
        inner = tasks.function("inner")

        async def writes(begun: asyncio.Event, session: AsyncSession) -> None:
            begun.set()
            for _ in range(1000):
                await session.execute(sa.text("SELECT 1"))
                await tasks.leave(session, "guest's")

        for round in range(10):
            outer = tasks.function("outer", wait=timedelta(milliseconds=2 * round))
            begun = asyncio.Event()
            started: list[Any] = []

            async def body(session: AsyncSession, begun: asyncio.Event = begun, started: list[Any] = started) -> None:
                started.append(asyncio.create_task(inner("a", lambda session: writes(begun, session))))
                await begun.wait()

            with pytest.raises(LostClaimError):
                await outer("k", body)
            (answer,) = await answers(*started)
            assert isinstance(answer, RetryTransactionError), answer

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


# --- blocks -----------------------------------------------------------------------------------------------------------


def test_a_block_inside_a_call_and_a_call_inside_a_block_end_with_the_outer_one(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer = tasks.function("inner"), tasks.function("outer")

        async def block(key: str, fails: bool = False) -> None:
            async with tasks.idem.transaction("block", key, wait=LONG) as claim:
                await tasks.leave(claim.session, key)
                await asyncio.gather(inner(f"{key} 1"), inner(f"{key} 2"))
                if fails:
                    raise Declined

        async def body(session: AsyncSession) -> None:
            await asyncio.gather(block("a"), block("b"))
            raise Declined

        with pytest.raises(Declined):
            await outer("k", body)
        assert await tasks.idem.get("block", "a") is None
        with pytest.raises(Declined):
            await block("c", fails=True)
        await block("d")

    on_a_loop(db, work)
    assert db.effects() == ["d", "d 1", "d 2"]


def test_a_block_that_ends_waits_for_the_one_inside_and_sends_away_who_waits(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, guest = tasks.function("inner"), Guest(tasks)

        async def release(of_block: Any) -> None:
            await closed(of_block)
            guest.go_on.set()

        async with tasks.idem.transaction("block", "b", wait=LONG) as claim:
            await tasks.leave(claim.session, "b")
            first, second = asyncio.create_task(inner("a", guest)), asyncio.create_task(inner("c"))
            await guest.begun.wait()
            await queued(door())
            releasing = asyncio.create_task(release(door()))
        done, sent_away, _ = await answers(first, second, releasing)
        assert isinstance(sent_away, RetryTransactionError)
        return done

    assert on_a_loop(db, work) == "guest's last"
    assert db.effects() == ["b", "a", "guest's last"]


@pytest.mark.parametrize("how", ["once", "twice"])
def test_a_block_that_is_cancelled_while_it_waits_for_the_one_inside_goes_on_waiting_once(
    db: Database, how: str
) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, guest = tasks.function("inner"), Guest(tasks)
        doors: list[Any] = []
        started: list[Any] = []

        async def block() -> None:
            async with tasks.idem.transaction("block", "b", wait=LONG) as claim:
                await tasks.leave(claim.session, "b")
                started.append(asyncio.create_task(inner("a", guest)))
                await guest.begun.wait()
                doors.append(door())

        task = asyncio.create_task(block())
        await so(lambda: doors)
        await closed(doors[0])
        for _ in range(1 if how == "once" else 2):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        assert task.done() is False or how == "twice"
        guest.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        (answer,) = await answers(*started)
        assert (answer == "guest's last") is (how == "once")

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


def test_a_block_in_an_async_generator_is_joined_by_its_own_code_alone(server_db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner = tasks.function("inner")

        async def numbers() -> AsyncIterator[str]:
            async with tasks.idem.transaction("block", "b") as claim:
                await tasks.leave(claim.session, "b")
                await inner("inside 1")
                yield "one"
                await inner("inside 2")
                raise Declined

        seen = []
        with pytest.raises(Declined):
            async for number in numbers():
                seen.append(await inner(f"reader of {number}"))
        return seen

    assert on_a_loop(server_db, work) == ["reader of one"]
    assert server_db.effects() == ["reader of one"]


def test_tasks_of_a_block_in_an_async_generator_make_calls_of_their_own(server_db: Database) -> None:
    """Nothing tells them from tasks of the generator's reader, which are not inside the block."""

    async def work(tasks: Tasks) -> Any:
        inner = tasks.function("inner")

        async def numbers() -> AsyncIterator[str]:
            async with tasks.idem.transaction("block", "b") as claim:
                await tasks.leave(claim.session, "b")
                await asyncio.gather(inner("1"))
                yield "one"
                raise Declined

        with pytest.raises(Declined):
            async for _ in numbers():
                pass

    on_a_loop(server_db, work)
    assert server_db.effects() == ["1"]


@pytest.mark.parametrize("end", ["closed", "collected"])
def test_a_block_in_an_async_generator_that_is_not_read_to_its_end_is_rolled_back(
    server_db: Database, end: str
) -> None:
    async def work(tasks: Tasks) -> Any:
        inner = tasks.function("inner")
        over = asyncio.Event()

        async def numbers() -> AsyncIterator[str]:
            try:
                async with tasks.idem.transaction("block", "b") as claim:
                    await tasks.leave(claim.session, "b")
                    yield "one"
            finally:
                over.set()

        generator = numbers()
        assert await anext(generator) == "one"
        assert await inner("own") == "own"
        if end == "closed":
            await generator.aclose()  # type: ignore[attr-defined]
        del generator
        await over.wait()
        assert await inner("next") == "next"

    on_a_loop(server_db, work)
    assert server_db.effects() == ["own", "next"]


def test_an_exit_stack_holds_a_block_as_a_with_statement_does(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner = tasks.function("inner")
        with pytest.raises(Declined):
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(tasks.idem.transaction("block", "b"))
                await asyncio.gather(inner("1"), inner("2"))
                raise Declined

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


def test_a_block_that_is_forgotten_takes_nobody_in_once_its_transaction_is_over(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, stack = tasks.function("inner"), contextlib.AsyncExitStack()
        async with AsyncSession(tasks.engine) as session:
            await stack.enter_async_context(tasks.idem.claim(session, "messages", "a"))
            await inner("inside")
            await session.rollback()
            assert await inner("k") == "k"
            assert (await inner.outcome("k")).replayed

    on_a_loop(db, work)
    assert db.effects() == ["k"]


def test_a_block_in_an_asynccontextmanager_is_joined_by_no_code_but_its_own(server_db: Database) -> None:
    """It is held by a generator, and nothing tells whose code a ``with`` is that somebody else wrote."""

    async def work(tasks: Tasks) -> Any:
        inner = tasks.function("inner")

        @contextlib.asynccontextmanager
        async def wrapped() -> AsyncIterator[Any]:
            async with tasks.idem.transaction("block", "b") as claim:
                await inner("inside")
                yield claim

        with pytest.raises(Declined):
            async with wrapped() as claim:
                await tasks.leave(claim.session, "b")
                await inner("body")
                raise Declined

    on_a_loop(server_db, work)
    assert server_db.effects() == ["body"]


# --- what else comes in by the door -----------------------------------------------------------------------------------


def test_an_event_of_a_machine_and_a_token_take_turns_with_calls(db: Database) -> None:
    shop = empty_shop(db)
    shop.add(Order(number=1, status="created"))

    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer"), Guest(tasks)
        machine = tasks.idem.machine(Order.status, {"created": {"paid"}, "paid": {"sent"}})
        desk = tasks.idem.tokens("desk", ttl=timedelta(hours=1))
        token = await desk.issue()

        async def redeem(session: AsyncSession) -> str:
            async with desk.redeem(session, token) as claim:
                await tasks.leave(claim.session, "token")
                return "redeemed"

        async def body(session: AsyncSession) -> Any:
            started = [asyncio.create_task(inner("a", guest))]
            await guest.begun.wait()
            started.append(asyncio.create_task(machine.advance(session, 1, to="paid", event_id="e")))
            await queued(door(), 1)
            started.append(asyncio.create_task(redeem(session)))
            await queued(door(), 2)
            guest.go_on.set()
            step = await machine.advance(session, 1, to="sent", event_id="f")
            done, advanced, redeemed = await asyncio.gather(*started)
            return [done, advanced.moved, redeemed, step.moved]

        return await outer("k", body)

    assert on_a_loop(db, work) == ["guest's last", True, "redeemed", True]
    assert db.effects() == ["k", "a", "guest's last", "token"]
    assert shop.value(Order.status, number=1) == "sent"


@pytest.mark.parametrize("form", ["claim", "transaction"])
def test_an_event_of_a_machine_joins_the_block_of_an_async_generator(db: Database, form: str) -> None:
    shop = empty_shop(db)
    shop.add(Order(number=1, status="created"))

    async def work(tasks: Tasks) -> Any:
        machine = tasks.idem.machine(Order.status, {"created": {"paid"}})

        async def steps(block: Any) -> AsyncIterator[bool]:
            async with block as claim:
                yield (await machine.advance(claim.session, 1, to="paid", event_id="e")).moved

        if form == "transaction":
            return [moved async for moved in steps(tasks.idem.transaction("block", "b"))]
        async with AsyncSession(tasks.engine) as session, session.begin():
            return [moved async for moved in steps(tasks.idem.claim(session, "block", "b"))]

    assert on_a_loop(db, work) == [True]
    assert shop.value(Order.status, number=1) == "paid"


def test_an_error_is_remembered_when_the_guest_is_gone_and_the_guests_effect_is_not_kept(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, guest = tasks.function("inner"), Guest(tasks)
        outer = tasks.function("outer", remember=(Declined,))
        started: list[Any] = []

        async def release(of_outer: Any) -> None:
            await closed(of_outer)
            guest.go_on.set()

        async def body(session: AsyncSession) -> None:
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            started.append(asyncio.create_task(release(door())))
            raise Declined("remembered")

        for _ in range(2):
            with pytest.raises(Declined, match="remembered"):
                await outer("k", body)
        await answers(*started)
        return len(started)

    assert on_a_loop(db, work) == 2
    assert db.effects() == []
    assert [row.key for row in db.rows()] == ["k"]


def test_an_error_to_remember_is_not_remembered_over_a_guest_that_does_not_end(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, guest = tasks.function("inner"), Guest(tasks)
        outer = tasks.function("outer", wait=SHORT, remember=(Declined,))
        started: list[Any] = []

        async def body(session: AsyncSession) -> None:
            started.append(asyncio.create_task(inner("a", guest)))
            await guest.begun.wait()
            raise Declined

        with pytest.raises(Declined):
            await outer("k", body)
        guest.go_on.set()
        await answers(*started)

    on_a_loop(db, work)
    assert (db.effects(), db.rows()) == ([], [])


def test_what_a_guest_of_a_replayed_block_writes_is_rolled_back_with_the_block(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, guest = tasks.function("inner"), Guest(tasks)

        async def release(of_block: Any) -> None:
            await closed(of_block)
            guest.go_on.set()

        async def block() -> bool:
            async with tasks.idem.transaction("block", "b", wait=LONG) as claim:
                if claim.replayed:
                    started.append(asyncio.create_task(inner("a", guest)))
                    await guest.begun.wait()
                    started.append(asyncio.create_task(release(door())))
                return claim.replayed

        started: list[Any] = []
        return await block(), await block(), await answers(*started)

    first, second, _ = on_a_loop(db, work)
    assert (first, second) == (False, True)
    assert db.effects() == []
    assert [row.key for row in db.rows()] == ["b"]


def test_what_the_first_attempt_of_a_restarted_call_left_behind_does_not_come_into_the_second(
    server_db: Database,
) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer = tasks.function("inner"), tasks.function("outer")
        second = asyncio.Event()
        started: list[Any] = []
        attempts: list[int] = []
        owned: dict[str, bool] = {}
        tasks.keys.hooks.append(lambda moment: owned.__setitem__(moment.request.key, moment.owned))

        async def late() -> Any:
            await second.wait()
            return await inner("late")

        async def body(session: AsyncSession) -> Any:
            attempts.append(len(attempts))
            if len(attempts) == 1:
                started.append(asyncio.create_task(late()))
                raise RetryTransactionError("a deadlock")
            second.set()
            answer = await inner("a")
            assert await started[0] == "late"
            return answer

        assert await outer("k", body) == "a"
        return owned

    assert on_a_loop(server_db, work) == {"k": True, "late": True, "a": False}
    assert sorted(server_db.effects()) == ["a", "k", "late"]


def test_a_call_that_is_restarted_while_a_guest_of_its_first_attempt_lasts_goes_on_without_it(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer, guest = tasks.function("inner"), tasks.function("outer", wait=SHORT), Guest(tasks)
        started: list[Any] = []

        async def body(session: AsyncSession) -> Any:
            if not started:
                started.append(asyncio.create_task(inner("a", guest)))
                await guest.begun.wait()
                raise RetryTransactionError("a deadlock")
            return await inner("b")

        assert await outer("k", body) == "b"
        guest.go_on.set()
        (answer,) = await answers(*started)
        assert isinstance(answer, RetryTransactionError), answer

    on_a_loop(db, work)
    assert db.effects() == ["k", "b"]


def test_a_key_that_a_call_which_is_ending_holds_is_refused_inside_it(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        inner, outer = tasks.function("inner"), tasks.function("outer")
        started: list[Any] = []

        async def again(of_outer: Any, begun: asyncio.Event) -> str:
            async def body(session: AsyncSession) -> str:
                begun.set()
                await closed(of_outer)
                with pytest.raises(ReentrantCallError):
                    await outer("k")
                return "refused"

            return await inner("a", body)

        async def body(session: AsyncSession) -> str:
            begun = asyncio.Event()
            started.append(asyncio.create_task(again(door(), begun)))
            await begun.wait()
            return "done"

        return await outer("k", body), await answers(*started)

    assert on_a_loop(db, work) == ("done", ["refused"])


def test_a_thread_with_a_loop_of_its_own_and_the_calls_context_makes_calls_of_its_own(server_db: Database) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    from idemtable import AsyncIdemTable

    async def work(tasks: Tasks) -> Any:
        outer = tasks.function("outer")

        async def elsewhere() -> Any:
            engine = create_async_engine(server_db.url)
            try:
                other = Tasks(server_db, engine)
                other.idem = AsyncIdemTable(engine)
                return await other.function("inner")("a")
            finally:
                await engine.dispose()

        def thread(answer: list[Any]) -> None:
            answer.append(asyncio.run(elsewhere()))

        async def body(session: AsyncSession) -> None:
            answer: list[Any] = []
            context = contextvars.copy_context()
            runner = threading.Thread(target=lambda: context.run(thread, answer))
            runner.start()
            await asyncio.to_thread(runner.join)
            assert answer == ["a"]
            raise Declined

        with pytest.raises(Declined):
            await outer("k", body)

    on_a_loop(server_db, work)
    assert server_db.effects() == ["a"]


def test_the_same_key_by_another_payload_is_no_matter_of_the_door(db: Database) -> None:
    async def work(tasks: Tasks) -> Any:
        @tasks.idem.transactional("checked", key="key")
        async def checked(session: AsyncSession, key: str, amount: int) -> int:
            return amount

        async def body(session: AsyncSession) -> Any:
            return [
                type(answer).__name__
                for answer in await answers(checked("a", 1), checked("a", 2), checked("a", 1), checked("b", 2))
            ]

        return await tasks.function("outer")("k", body)

    assert on_a_loop(db, work) == ["int", FingerprintMismatchError.__name__, "int", "int"]
