"""Threads inside a call: one at a time, none once it ends, and none that outlives it as a success."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import InProgressError, LostClaimError, ReentrantCallError, RetryTransactionError
from idemtable.claim import nesting
from idemtable.claim.steps import Moment
from tests.support.backends import db_of
from tests.support.database import Database
from tests.support.doors import (
    LONG,
    SHORT,
    Declined,
    Threads,
    at_door,
    caught,
    door,
    in_threads,
    is_closed,
    wait_for,
)
from tests.support.forked import in_fork
from tests.support.newest import NEWEST

SYNC = [name for name in NEWEST if "async" not in name]


@pytest.fixture(params=SYNC)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(params=[name for name in SYNC if not name.startswith("sqlite")])
def server_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


class Guest:
    """The body of a call inside: says when it has begun, and goes on when it is told to."""

    def __init__(self, threads: Threads, name: str = "guest's last") -> None:
        self._threads, self._name = threads, name
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.ended = False

    def __call__(self, session: Session) -> str:
        self.begun.set()
        wait_for(self.go_on)
        self._threads.leave(session, self._name)
        self.ended = True
        return self._name


def released(threads: Threads, guest: Guest) -> None:
    """Let a guest go on when the call around it is ending."""
    of_outer = door()

    def release() -> None:
        is_closed(of_outer)
        guest.go_on.set()

    threads.beside(release)


# --- the outer call succeeds or fails ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_a_call_that_ends_waits_for_the_one_inside_and_what_becomes_of_both_is_one(db: Database, fails: bool) -> None:
    def work(threads: Threads) -> Any:
        inner, outer, guest = threads.function("inner"), threads.function("outer"), Guest(threads)
        beside: list[Any] = []

        def body(session: Session) -> str:
            beside.append(threads.beside(lambda: inner("a", guest)))
            wait_for(guest.begun)
            released(threads, guest)
            if fails:
                raise Declined
            return "done"

        answer = caught(lambda: outer("k", body))
        assert guest.ended
        assert beside[0].result() == "guest's last"
        return type(answer)

    assert in_threads(db, work) is (Declined if fails else str)
    assert db.effects() == ([] if fails else ["k", "a", "guest's last"])


def test_who_waits_for_a_turn_when_the_call_ends_is_sent_away_and_who_comes_later_makes_a_call_of_its_own(
    server_db: Database,
) -> None:
    def work(threads: Threads) -> Any:
        inner, outer, guest = threads.function("inner"), threads.function("outer"), Guest(threads)
        beside: list[Any] = []
        owned: dict[Any, bool] = {}
        threads.keys.hooks.append(lambda moment: owned.__setitem__(moment.request.key, moment.owned))

        def never(session: Session) -> None:
            pytest.fail("it ran")

        def late(of_outer: Any) -> Any:
            is_closed(of_outer)
            try:
                return inner("late")
            finally:
                guest.go_on.set()

        def body(session: Session) -> str:
            beside.append(threads.beside(lambda: inner("a", guest)))
            wait_for(guest.begun)
            beside.append(threads.beside(lambda: inner("b", never)))
            at_door(door())
            of_outer = door()
            beside.append(threads.beside(lambda: late(of_outer)))
            return "done"

        assert outer("k", body) == "done"
        with pytest.raises(RetryTransactionError):
            beside[1].result()
        assert (beside[0].result(), beside[2].result()) == ("guest's last", "late")
        return owned

    assert in_threads(server_db, work) == {"k": True, "a": False, "late": True}
    assert sorted(server_db.effects()) == ["a", "guest's last", "k", "late"]


def test_three_levels_end_from_the_innermost_to_the_outermost(db: Database) -> None:
    def work(threads: Threads) -> Any:
        tree, branch, leaf = (threads.function(scope) for scope in ("tree", "branch", "leaf"))
        guest, beside, doors = Guest(threads), [], []

        def in_branch(session: Session) -> str:
            doors.append(door())
            beside.append(threads.beside(lambda: leaf("l", guest)))
            wait_for(guest.begun)
            return "branch"

        def release() -> None:
            for one in doors:
                is_closed(one)
            guest.go_on.set()

        def in_tree(session: Session) -> str:
            doors.append(door())
            beside.append(threads.beside(lambda: branch("b", in_branch)))
            wait_for(guest.begun)
            threads.beside(release)
            return "tree"

        return [tree("t", in_tree), *(one.result() for one in beside)]

    assert sorted(in_threads(db, work)) == ["branch", "guest's last", "tree"]
    assert db.effects() == ["t", "b", "l", "guest's last"]


def test_a_thread_without_the_calls_context_makes_a_call_of_its_own(server_db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, outer = threads.function("inner"), threads.function("outer")

        def body(session: Session) -> None:
            assert threads.beside(lambda: inner("a"), inherits=False).result() == "a"
            raise Declined

        with pytest.raises(Declined):
            outer("k", body)

    in_threads(server_db, work)
    assert server_db.effects() == ["a"]


def test_an_interrupt_of_the_wait_for_a_guest_is_what_is_raised_and_the_wait_goes_on_once(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, outer, guest = threads.function("inner"), threads.function("outer"), Guest(threads)
        main = threading.main_thread().ident
        assert main == threading.get_ident()

        def body(session: Session) -> str:
            beside.append(threads.beside(lambda: inner("a", guest)))
            wait_for(guest.begun)
            of_outer = door()

            def interrupt() -> None:
                is_closed(of_outer)
                signal.pthread_kill(main, signal.SIGINT)
                wait_for(interrupted)
                guest.go_on.set()

            threads.beside(interrupt)
            return "done"

        def handler(number: int, frame: Any) -> None:
            interrupted.set()
            raise KeyboardInterrupt

        beside: list[Any] = []
        interrupted = threading.Event()
        before = signal.signal(signal.SIGINT, handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                outer("k", body)
        finally:
            signal.signal(signal.SIGINT, before)
        assert guest.ended

    in_threads(db, work)
    assert (db.effects(), db.rows()) == ([], [])


# --- the inner call ---------------------------------------------------------------------------------------------------


def test_a_turn_is_waited_for_at_most_so_long_and_the_others_go_on(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, outer, guest = threads.function("inner"), threads.function("outer"), Guest(threads)
        hurried = threads.function("hurried", wait=SHORT)

        def body(session: Session) -> Any:
            first = threads.beside(lambda: inner("a", guest))
            wait_for(guest.begun)
            with pytest.raises(InProgressError, match="still at work"):
                hurried("h")
            guest.go_on.set()
            return [first.result(), hurried("h")]

        return outer("k", body)

    assert in_threads(db, work) == ["guest's last", "h"]
    assert db.effects() == ["k", "a", "guest's last", "h"]


def test_one_inside_that_fails_takes_its_own_effect_with_it_and_the_next_one_comes_in(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, outer, guest = threads.function("inner"), threads.function("outer"), Guest(threads)

        def fails(session: Session) -> None:
            guest(session)
            raise Declined

        def body(session: Session) -> Any:
            first = threads.beside(lambda: inner("a", fails))
            wait_for(guest.begun)
            second = threads.beside(lambda: inner("b"))
            at_door(door())
            guest.go_on.set()
            with pytest.raises(Declined):
                first.result()
            return second.result()

        return outer("k", body)

    assert in_threads(db, work) == "b"
    assert db.effects() == ["k", "b"]


def test_the_same_key_in_a_thread_inside_its_call_is_refused(db: Database) -> None:
    def work(threads: Threads) -> Any:
        outer = threads.function("outer")

        def body(session: Session) -> str:
            with pytest.raises(ReentrantCallError):
                threads.beside(lambda: outer("k")).result()
            return "done"

        return outer("k", body)

    assert in_threads(db, work) == "done"


def test_two_threads_that_join_one_session_take_turns_and_a_failure_undoes_its_own_effect_alone(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, guest = threads.function("inner"), Guest(threads)

        def fails(session: Session) -> None:
            guest(session)
            raise Declined

        with Session(threads.engine) as session, session.begin():
            threads.leave(session, "caller's")
            first = threads.beside(lambda: inner.join(session, "a", fails))
            wait_for(guest.begun)
            second = threads.beside(lambda: inner.join(session, "b"))
            at_door(vars(session)["idemtable_door"])
            guest.go_on.set()
            with pytest.raises(Declined):
                first.result()
            return second.result()

    assert in_threads(db, work) == "b"
    assert db.effects() == ["caller's", "b"]


# --- a guest that does not end ----------------------------------------------------------------------------------------


def come_in(threads: Threads, way: str, session: Session, guest: Any) -> Any:
    """Be a guest in one of the ways there are."""
    if way == "call":
        return threads.function("inner")("a", guest)
    if way == "join":
        return threads.function("inner").join(session, "a", guest)
    if way == "block":
        with threads.idem.transaction("inner", "a", wait=LONG) as claim:
            return guest(claim.session)
    with threads.idem.claim(session, "inner", "a", wait=LONG) as claim:
        return guest(claim.session)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("way", ["call", "join", "block", "claim"])
def test_who_does_not_end_in_time_takes_the_call_and_its_connection_down(
    db: Database, way: str, fails: bool, level: int
) -> None:
    def work(threads: Threads) -> Any:
        outer, middle = threads.function("outer", wait=SHORT), threads.function("middle", wait=SHORT)
        guest = Guest(threads)
        beside: list[Any] = []

        def body(session: Session) -> str:
            beside.append(threads.beside(lambda: come_in(threads, way, session, guest)))
            wait_for(guest.begun)
            if fails:
                raise Declined
            return "done"

        with pytest.raises(Declined if fails else LostClaimError):
            outer("k", body if level == 1 else lambda session: middle("m", body))
        assert not guest.ended
        assert threads.function("outer")("k") == "k"
        guest.go_on.set()
        with pytest.raises(RetryTransactionError):
            beside[0].result()

    in_threads(db, work)
    assert db.effects() == ["k"]


def test_an_outer_call_that_swallows_that_a_guest_of_its_guest_was_cut_off_commits_nothing(db: Database) -> None:
    def work(threads: Threads) -> None:
        outer, middle, inner = (
            threads.function("outer"),
            threads.function("middle", wait=SHORT),
            threads.function("inner"),
        )
        guest = Guest(threads)
        beside: list[Any] = []

        def in_middle(session: Session) -> None:
            beside.append(threads.beside(lambda: inner("a", guest)))
            wait_for(guest.begun)

        def body(session: Session) -> str:
            with pytest.raises(LostClaimError):
                middle("m", in_middle)
            return "swallowed"

        with pytest.raises(LostClaimError):
            outer("k", body)
        guest.go_on.set()
        with pytest.raises(RetryTransactionError):
            beside[0].result()

    in_threads(db, work)
    assert (db.effects(), db.rows()) == ([], [])


def test_a_guest_in_the_middle_of_a_statement_is_cut_off(server_db: Database) -> None:
    nap = "SELECT pg_sleep(1)" if server_db.kind == "postgresql" else "SELECT sleep(1)"

    def work(threads: Threads) -> Any:
        inner, outer = threads.function("inner"), threads.function("outer", wait=SHORT)
        begun = threading.Event()
        beside: list[Any] = []

        def sleeps(session: Session) -> None:
            begun.set()
            session.execute(sa.text(nap))

        def body(session: Session) -> str:
            beside.append(threads.beside(lambda: inner("a", sleeps)))
            wait_for(begun)
            return "done"

        with pytest.raises(LostClaimError):
            outer("k", body)
        with pytest.raises(RetryTransactionError):
            beside[0].result()

    in_threads(server_db, work)
    assert (server_db.effects(), server_db.rows()) == ([], [])


def test_a_guest_at_work_is_cut_off_between_any_two_instructions_and_the_process_lives(db: Database) -> None:
    """To close the connection under its statement is to free what the driver of that thread reads: ten rounds die of it."""

    def work(threads: Threads) -> None:
        inner = threads.function("inner")

        def writes(begun: threading.Event, session: Session) -> None:
            begun.set()
            for _ in range(1000):
                session.execute(sa.text("SELECT 1"))
                threads.leave(session, "guest's")

        for round in range(10):
            outer = threads.function("outer", wait=timedelta(milliseconds=2 * round))
            begun = threading.Event()
            beside: list[Any] = []

            def body(session: Session, begun: threading.Event = begun, beside: list[Any] = beside) -> None:
                beside.append(threads.beside(lambda: inner("a", lambda session: writes(begun, session))))
                wait_for(begun)

            with pytest.raises(LostClaimError):
                outer("k", body)
            with pytest.raises(RetryTransactionError):
                beside[0].result()

    in_threads(db, work)
    assert (db.effects(), db.rows()) == ([], [])


# --- blocks -----------------------------------------------------------------------------------------------------------


def test_a_block_that_ends_waits_for_the_thread_inside(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, guest = threads.function("inner"), Guest(threads)
        with threads.idem.transaction("block", "b", wait=LONG) as claim:
            threads.leave(claim.session, "b")
            first = threads.beside(lambda: inner("a", guest))
            wait_for(guest.begun)
            released(threads, guest)
        return first.result()

    assert in_threads(db, work) == "guest's last"
    assert db.effects() == ["b", "a", "guest's last"]


def test_blocks_entered_by_hand_that_overlap_are_each_their_own_and_nothing_of_them_is_kept(
    server_db: Database,
) -> None:
    def work(threads: Threads) -> Any:
        last, most = None, 0
        for number in range(30):
            block = threads.idem.transaction("block", f"b{number}")
            block.__enter__()
            threads.leave(block.session, f"b{number}")
            if last is not None:
                last.__exit__(*((Declined, Declined(), None) if number % 2 else (None, None, None)))
            last = block
            most = max(most, len(threads.known))
        assert last is not None
        last.__exit__(None, None, None)
        return most

    assert in_threads(server_db, work) < 10
    assert server_db.effects() == [f"b{number}" for number in range(30) if number % 2 or number == 29]


def test_a_block_in_a_generator_is_joined_by_its_own_code_alone(server_db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner = threads.function("inner")

        def numbers() -> Iterator[str]:
            with threads.idem.transaction("block", "b") as claim:
                threads.leave(claim.session, "b")
                inner("inside 1")
                yield "one"
                inner("inside 2")
                raise Declined

        seen = []
        with pytest.raises(Declined):
            for number in numbers():
                seen.append(inner(f"reader of {number}"))
        return seen

    assert in_threads(server_db, work) == ["reader of one"]
    assert server_db.effects() == ["reader of one"]


@pytest.mark.parametrize("end", ["closed", "collected", "in a cycle"])
def test_a_block_in_a_generator_that_is_not_read_to_its_end_is_rolled_back(server_db: Database, end: str) -> None:
    def work(threads: Threads) -> Any:
        inner = threads.function("inner")

        def numbers(kept: list[Any]) -> Iterator[str]:
            with threads.idem.transaction("block", "b") as claim:
                threads.leave(claim.session, "b")
                yield "one"

        kept: list[Any] = []
        generator = numbers(kept)
        assert next(generator) == "one"
        if end == "in a cycle":
            kept.append(generator)
        assert inner("own") == "own"
        if end == "closed":
            generator.close()  # type: ignore[attr-defined]
        del generator, kept
        gc.collect()
        assert inner("next") == "next"

    in_threads(server_db, work)
    assert server_db.effects() == ["own", "next"]


def test_an_exit_stack_holds_a_block_as_a_with_statement_does(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner = threads.function("inner")
        with pytest.raises(Declined), contextlib.ExitStack() as stack:
            stack.enter_context(threads.idem.transaction("block", "b"))
            inner("1")
            stack.enter_context(threads.idem.transaction("block", "c"))
            threads.beside(lambda: inner("2")).result()
            raise Declined

    in_threads(db, work)
    assert (db.effects(), db.rows()) == ([], [])


def test_a_block_in_a_contextmanager_is_joined_by_no_code_but_its_own(server_db: Database) -> None:
    """It is held by a generator, and nothing tells whose code a ``with`` is that somebody else wrote."""

    def work(threads: Threads) -> Any:
        inner = threads.function("inner")

        @contextlib.contextmanager
        def wrapped() -> Iterator[Any]:
            with threads.idem.transaction("block", "b") as claim:
                inner("inside")
                yield claim

        with pytest.raises(Declined), wrapped() as claim:
            threads.leave(claim.session, "b")
            inner("body")
            raise Declined

    in_threads(server_db, work)
    assert server_db.effects() == ["body"]


# --- a sync table where there is a loop, and a fork -------------------------------------------------------------------


def test_a_sync_table_in_a_running_loop_takes_turns_between_threads_of_the_loop(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, guest = threads.function("inner"), Guest(threads)

        async def main() -> Any:
            with threads.idem.transaction("block", "b", wait=LONG) as claim:
                threads.leave(claim.session, "b")
                first = asyncio.create_task(asyncio.to_thread(inner, "a", guest))
                await asyncio.to_thread(wait_for, guest.begun)
                second = asyncio.create_task(asyncio.to_thread(inner, "c"))
                of_block = door()
                await asyncio.to_thread(at_door, of_block)
                guest.go_on.set()
                answers = [await first, await second]
                return [*answers, inner("d")]

        return asyncio.run(main())

    assert in_threads(db, work) == ["guest's last", "c", "d"]
    assert db.effects() == ["b", "a", "guest's last", "c", "d"]


def test_a_sync_call_that_would_block_the_loop_of_whoever_it_waits_for_gives_up(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner = threads.function("inner", wait=SHORT)

        async def main() -> Any:
            with threads.idem.transaction("outer", "k", wait=LONG):
                begun, go_on = asyncio.Event(), asyncio.Event()

                async def block() -> None:
                    with threads.idem.transaction("block", "b") as claim:
                        threads.leave(claim.session, "b")
                        begun.set()
                        await go_on.wait()

                task = asyncio.create_task(block())
                await begun.wait()
                with pytest.raises(InProgressError):
                    inner("a")
                go_on.set()
                await task

        asyncio.run(main())

    in_threads(db, work)
    assert db.effects() == ["b"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_call_in_a_process_that_was_forked_inside_a_call_is_one_of_its_own(server_db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, outer = threads.function("inner"), threads.function("outer")

        def child() -> bool:
            moments: list[Moment] = []
            threads.keys.hooks.append(moments.append)
            inner("child's")
            return all(moment.owned for moment in moments)

        def body(session: Session) -> None:
            in_fork(child)
            assert inner("parent's") == "parent's"
            raise Declined

        with pytest.raises(Declined):
            outer("k", body)

    in_threads(server_db, work)
    assert server_db.effects() == ["child's"]


def test_a_context_that_outlives_its_call_keeps_no_call_alive(db: Database) -> None:
    def work(threads: Threads) -> Any:
        inner, outer = threads.function("inner"), threads.function("outer")
        contexts: list[contextvars.Context] = []

        def body(session: Session) -> str:
            contexts.append(contextvars.copy_context())
            return "done"

        outer("k", body)
        return contexts[0].run(lambda: (inner("a"), nesting._innermost.get()))

    assert in_threads(db, work) == ("a", None)
    assert db.effects() == ["k", "a"]


@pytest.mark.parametrize("left", [True, False], ids=["left too late", "never left"])
@pytest.mark.parametrize("end", ["rollback", "close", "commit", "a savepoint's rollback"])
def test_a_block_that_is_forgotten_takes_nobody_in_once_its_transaction_is_over(
    db: Database, end: str, left: bool
) -> None:
    """As in a consumer whose error path ends the session and no block: what came in would be committed by nobody."""

    def forget(threads: Threads, key: str) -> tuple[contextlib.ExitStack, Session]:
        inner, session, stack = threads.function("inner"), Session(threads.engine), contextlib.ExitStack()
        session.connection()
        savepoint = session.begin_nested()
        stack.enter_context(threads.idem.claim(session, "messages", key))
        assert inner(f"inside {key}") == f"inside {key}"
        frame = nesting._innermost.get()
        assert frame is not None
        assert frame.is_around()
        if end.startswith("a savepoint"):
            savepoint.rollback()
            assert not frame.is_around()
            session.close()
        else:
            getattr(session, end)()
        return stack, session

    def work(threads: Threads) -> None:
        first, second = forget(threads, "a"), forget(threads, "b")
        outer = threads.function("outer")
        assert outer("k") == "k"
        assert outer.outcome("k").replayed
        assert db.effects() == [*(["inside a", "inside b"] if end == "commit" else []), "k"]
        assert nesting._innermost.get() is None
        for stack, session in (second, first):
            if left:
                with pytest.raises(LostClaimError):
                    stack.close()
            session.close()

    in_threads(db, work)
