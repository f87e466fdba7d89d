"""Calls that are cancelled or interrupted: nothing or everything is left, and every connection is back in the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from pymysql.constants import COMMAND
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.util import await_only

import idemtable
from idemtable import AsyncIdemTable, IdemTable, LostClaimError, RetryTransactionError, Status
from idemtable.claim import nesting
from idemtable.claim.attempt import Attempt
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, Effect, effect
from tests.support.newest import NEWEST


class Cancelling:
    """Awaits something, and cancels the task that does so at its `number`-th pause."""

    def __init__(self, awaited: Awaitable[Any], number: int) -> None:
        self._awaited, self._number = awaited, number
        self.hit = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaited.__await__()
        sent: Any = None
        throw: BaseException | None = None
        for number in count(1):
            try:
                paused = steps.throw(throw) if throw is not None else steps.send(sent)
            except StopIteration as end:
                return end.value
            finally:
                throw = None  # else this frame and the error would keep each other alive
            if number == self._number:
                self.hit = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()  # arrives at this very pause
            sent = None
            try:
                sent = yield paused
            except BaseException as error:
                throw = error
        raise AssertionError("never ends")


async def others_done() -> None:
    """Let what the call left to the loop come to its end: SQLAlchemy closes sessions behind a shield."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


@pytest.fixture(params=[name for name in NEWEST if "async" in name])
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


def left_behind(db: Database, key: str) -> tuple[int, int]:
    """How many effects and completed keys there are, at one moment: a COMMIT that nobody awaits may just be happening."""
    keys = idemtable.metadata.tables["idemtable"].c
    effects = sa.select(sa.func.count()).select_from(Effect).where(Effect.name == key)
    completed = sa.select(sa.func.count(keys.id)).where(keys.key == key, keys.status == Status.COMPLETED.code)
    with db.admin.connect() as connection:
        return tuple(connection.execute(sa.select(effects.scalar_subquery(), completed.scalar_subquery())).one())


def cancel_everywhere(db: Database, work: Callable[[Any, str], Awaitable[Any]], prepare: Any = None) -> int:
    """Cancel a call at its first pause, the next call at its second one, and so on; after each look at what is left.

    Returns:
        How many were cancelled.
    """

    async def main() -> int:
        engine = create_async_engine(db.url, pool_size=3, max_overflow=0, pool_timeout=10)
        idem = AsyncIdemTable(engine)

        @idem.transactional("order", key="key")
        async def order(session: AsyncSession, key: str) -> str:
            session.add(Effect(name=key))
            await session.flush()
            await session.execute(sa.text("SELECT 1"))
            return key

        hits = 0
        try:
            await order("warm")
            for number in count(1):
                key = f"k{number}"
                if prepare:
                    await order(key)
                hit = await cancelled_at(work(order, key), number, key)
                await others_done()
                assert engine.sync_engine.pool.checkedout() == 0, f"a connection is lost at pause {number}"  # type: ignore[attr-defined]
                assert await asyncio.to_thread(left_behind, db, key) in [(0, 0), (1, 1)], number
                assert await order(key) == key
                assert await asyncio.to_thread(db.effects, key) == [key]
                if not hit:
                    return hits
                hits += 1
            raise AssertionError("never ends")
        finally:
            await engine.dispose()

    return asyncio.run(main())


async def cancelled_at(call: Awaitable[Any], number: int, key: str) -> bool:
    """Cancel a call at one pause; say whether it had so many."""
    cancelling = Cancelling(call, number)

    async def run() -> Any:
        return await cancelling

    try:
        assert await asyncio.ensure_future(run()) == key
    except asyncio.CancelledError:
        assert cancelling.hit
    return cancelling.hit


def test_a_first_run_cancelled_at_any_pause_leaves_nothing_or_everything(db: Database) -> None:
    assert cancel_everywhere(db, lambda order, key: order(key)) >= 4


def test_a_replay_cancelled_at_any_pause_changes_nothing(db: Database) -> None:
    assert cancel_everywhere(db, lambda order, key: order(key), prepare=True) >= 2


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_inside_the_function_leaves_nothing_and_loses_no_connection(
    sync_db: Database, interruption: type[BaseException]
) -> None:
    db = sync_db
    interrupted: list[str] = []
    with db.other_engine() as engine:
        idem = IdemTable(engine)

        @idem.transactional("order", key="key", remember=(LookupError,))
        def order(session: Any, key: str) -> str:
            effect(session, key)
            if not interrupted:
                interrupted.append(key)
                raise interruption
            return "ran"

        with pytest.raises(interruption):
            order("k")
        assert engine.pool.checkedout() == 0
        assert (db.effects(), db.rows()) == ([], [])
        assert order("k") == "ran"
        assert engine.pool.checkedout() == 0
    assert interrupted == ["k"]
    assert db.effects() == ["k"]


def test_an_interruption_inside_a_joined_call_undoes_only_the_call(sync_db: Database) -> None:
    db = sync_db

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        effect(session, key)
        raise KeyboardInterrupt

    with db.session() as mine:
        mine.run(lambda session: effect(session, "mine"))
        with pytest.raises(KeyboardInterrupt):
            order.join(mine.session, "k")
        mine.commit()
    assert db.effects() == ["mine"]
    assert db.rows() == []


# --- the database's error takes the place of what interrupted -------------------------------------------------------------


def raise_over(whose: str = "SQLAlchemy") -> None:
    """Raise over what is being handled, as SQLAlchemy does where it cannot roll back any more, and a guard over that."""
    try:
        raise sa.exc.OperationalError("ROLLBACK", {}, Exception("the connection is lost"), connection_invalidated=True)
    except sa.exc.OperationalError as error:
        if whose == "guard":
            raise RetryTransactionError("it cannot go on") from error
        raise


@pytest.mark.parametrize("way", ["call", "block", "join", "claim"])
def test_an_interruption_over_which_the_database_raises_is_raised_and_nothing_runs_again(
    sync_db: Database, way: str
) -> None:
    db, runs = sync_db, []

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        runs.append(key)
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise_over()

    with db.session() as mine:
        with pytest.raises(KeyboardInterrupt):
            if way == "call":
                order("k")
            elif way == "join":
                order.join(mine.session, "k")
            else:
                idem = db.idem
                with (
                    idem.claim(mine.session, "order", "k")
                    if way == "claim"
                    else idem.transaction("order", "k") as claim
                ):
                    order.__wrapped__(claim.session, "k")
        mine.rollback()
    assert (runs, db.effects(), db.rows()) == (["k"], [], [])


@pytest.mark.parametrize("whose", ["SQLAlchemy", "guard"])
@pytest.mark.parametrize("way", ["call", "block", "join", "claim"])
def test_a_task_is_cancelled_also_where_the_database_raises_over_that(db: Database, way: str, whose: str) -> None:
    runs = []

    async def main() -> None:
        begun = asyncio.Event()
        engine = create_async_engine(db.url)
        idem = AsyncIdemTable(engine)

        async def business(session: AsyncSession, key: str) -> None:
            runs.append(key)
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise_over(whose)

        order = idem.transactional("order", key="key")(business)

        async def call() -> None:
            async with AsyncSession(engine) as mine:
                if way == "call":
                    await order("k")
                elif way == "join":
                    await order.join(mine, "k")
                elif way == "block":
                    async with idem.transaction("order", "k") as claim:
                        await business(claim.session, "k")
                else:
                    async with idem.claim(mine, "order", "k") as claim:
                        await business(claim.session, "k")

        task = asyncio.create_task(call())
        await begun.wait()
        task.cancel()
        (answer,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(answer, asyncio.CancelledError), answer
        await others_done()
        await engine.dispose()

    asyncio.run(main())
    assert (runs, db.effects(), db.rows()) == (["k"], [], [])


@pytest.mark.parametrize("way", ["call", "join"])
def test_a_task_is_cancelled_also_where_the_database_raises_over_that_while_it_claims(db: Database, way: str) -> None:
    hits = []

    async def main() -> None:
        engine = create_async_engine(db.url)

        @AsyncIdemTable(engine).transactional("order", key="key")
        async def order(session: AsyncSession, key: str) -> str:
            return key

        def interrupt(*_: Any) -> None:
            hits.append(way)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            try:
                await_only(asyncio.sleep(0))
            except asyncio.CancelledError:
                raise_over()

        async def call() -> None:
            async with AsyncSession(engine) as mine:
                await (order("k") if way == "call" else order.join(mine, "k"))

        sa.event.listen(engine.sync_engine, "begin" if way == "call" else "savepoint", interrupt)
        (answer,) = await asyncio.gather(asyncio.create_task(call()), return_exceptions=True)
        assert isinstance(answer, asyncio.CancelledError), answer
        await others_done()
        await engine.dispose()

    asyncio.run(main())
    assert (hits, db.rows()) == ([way], [])


def test_a_time_out_inside_the_function_over_which_the_database_raises_cancels_nobody(db: Database) -> None:
    """The task was asked to end, and is not any more: what is left is the error, after which the call begins again."""
    runs = []

    async def main() -> str:
        engine = create_async_engine(db.url)

        @AsyncIdemTable(engine).transactional("order", key="key")
        async def order(session: AsyncSession, key: str) -> str:
            runs.append(key)
            if len(runs) == 1:
                async with asyncio.timeout(0):
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        raise_over()
            return "ran"

        answer = await order("k")
        await engine.dispose()
        return answer

    assert asyncio.run(main()) == "ran"
    assert (runs, len(db.rows())) == (["k", "k"], 1)


@pytest.mark.parametrize("way", ["call", "join"])
def test_an_interruption_while_a_call_is_entered_leaves_no_call_open(
    sync_db: Database, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, push = sync_db, nesting.push

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        effect(session, key)
        return "ran"

    def interrupted(frame: nesting.Frame) -> None:
        push(frame)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, db.session() as mine:
        patched.setattr(nesting, "push", interrupted)
        with pytest.raises(KeyboardInterrupt):
            order("k") if way == "call" else order.join(mine.session, "k")
    assert nesting._innermost.get() is None
    assert order("k") == "ran"
    assert db.effects() == ["k"]


@pytest.mark.parametrize("way", ["call", "join", "block"])
def test_an_interruption_while_an_error_is_handled_leaves_no_call_open(
    sync_db: Database, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = sync_db

    @db.idem.transactional("order", key="key", payload=None)
    def order(session: Any, key: str, fails: bool = False) -> str:
        effect(session, key)
        if fails:
            raise LookupError
        return "ran"

    def interrupted(attempt: Attempt, error: BaseException) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, db.session() as mine:
        patched.setattr(Attempt, "fail", interrupted)
        with pytest.raises(KeyboardInterrupt):
            if way == "call":
                order("k", fails=True)
            elif way == "join":
                order.join(mine.session, "k", fails=True)
            else:
                with db.idem.transaction("order", "k") as block:
                    effect(block.session, "k")
                    raise LookupError
    assert nesting._innermost.get() is None
    assert order("k") == "ran"
    assert db.effects() == ["k"]


def test_a_raw_rollback_inside_the_function_commits_nothing_of_what_follows(sync_db: Database) -> None:
    db = sync_db

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        session.execute(sa.text("ROLLBACK"))
        session.execute(sa.text("INSERT INTO effect (name, amount) VALUES ('after', 1)"))
        return "pretends"

    with pytest.raises(LostClaimError):
        order("k")
    # There nothing has begun again, so that each statement lasts by itself.
    if db.kind != "sqlite" and db.url.get_driver_name() != "psycopg2":
        assert db.effects() == []
    assert db.rows() == []


# --- an exception that came between what PyMySQL had sent and its answer --------------------------------------------------


@pytest.fixture(params=[name for name, (_, driver) in BACKENDS.items() if driver == "mysql+pymysql"])
def pymysql_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


UNREAD = {"a row touched": "INSERT INTO effect (name, amount) VALUES ('unread', 1)", "rows": "SELECT 1, 2"}


def leave_unread(session: Any, sql: str) -> None:
    """Do what a signal handler does that raises at the wrong moment: whatever is sent next gets this one's answer."""
    driver = session.connection().connection.driver_connection
    driver._execute_command(COMMAND.COM_QUERY, sql)
    driver._result = None


@pytest.mark.parametrize("listened", [False, True])
@pytest.mark.parametrize("sql", UNREAD.values(), ids=list(UNREAD))
def test_the_answer_to_another_statement_is_not_taken_for_that_to_a_claim(
    pymysql_db: Database, sql: str, listened: bool
) -> None:
    db = pymysql_db
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        if listened:  # then statements go one by one
            sa.event.listen(engine, "after_cursor_execute", lambda *_: None)

        @db.table(engine).transactional("order", key="key")
        def order(session: Any, key: str) -> str:
            effect(session, key)
            if key == "interrupted":
                leave_unread(session, sql)
                raise LookupError
            return key

        for key, replayed in (("before", True), ("new", False)):
            order("before")
            with pytest.raises(LookupError):
                order("interrupted")
            outcome = order.outcome(key)
            assert (outcome.value, outcome.replayed) == (key, replayed)
            assert order.outcome(key).attempts == 1, "the connection was given to somebody again"
    assert db.effects() == ["before", "new"]


@pytest.mark.parametrize("listened", [False, True])
def test_the_answer_to_another_statement_is_not_taken_for_that_to_a_commit(
    pymysql_db: Database, listened: bool
) -> None:
    db, runs = pymysql_db, []
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        if listened:
            sa.event.listen(engine, "after_cursor_execute", lambda *_: None)

        @db.table(engine).transactional("order", key="key")
        def order(session: Any, key: str) -> str:
            runs.append(key)
            effect(session, key)
            leave_unread(session, UNREAD["a row touched"])  # and nobody is told
            return key

        outcome = order.outcome("k")
        assert (outcome.value, outcome.attempts) == ("k", 2)
        assert order.outcome("k").replayed
    assert runs == ["k"]
    assert db.effects() == ["k", "unread"]
