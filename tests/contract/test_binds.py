"""What a table can be bound to, and the transaction that it makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import idemtable
from idemtable import AsyncIdemTable, IdemTable, InProgressError, SessionNotUsableError
from idemtable.claim.run import closed
from tests.support.backends import db_of
from tests.support.database import Database, Effect, effect
from tests.support.tokens import desk


class OwnSession(Session):
    pass


def maker_of(db: Database, engine: Any = None) -> Any:
    engine = db.engine if engine is None else engine
    if db.is_async:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        return async_sessionmaker(engine, sync_session_class=OwnSession, info={"made": "here"})
    return sessionmaker(engine, class_=OwnSession, info={"made": "here"})


def test_a_sessionmaker_gives_the_sessions_that_functions_and_blocks_get(db: Database) -> None:
    idem = db.table(maker_of(db))
    seen: list[Any] = []

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        seen.append(session)
        return effect(session, key)

    assert order("k") == order("k")
    with idem.transaction("pay", "k") as claim:
        db.on(claim.session, seen.append)

    assert [isinstance(session, OwnSession) for session in seen] == [True, True]
    assert [session.info["made"] for session in seen] == ["here"] * 2
    assert db.effects() == ["k"]


def test_an_async_call_that_has_committed_is_over_without_a_task_of_its_own() -> None:
    db, tasks = db_of("postgresql18-async"), []

    async def counted() -> None:
        engine = create_async_engine(db.url)

        @AsyncIdemTable(engine).transactional("tasks", key="key")
        async def order(session: AsyncSession, key: str) -> int:
            return await session.run_sync(effect, key)

        await order("warm")
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, work, **rest: tasks.append(work) or asyncio.Task(work, loop=loop, **rest))
        await order("k")
        await order("k")
        loop.set_task_factory(None)
        await engine.dispose()

    asyncio.run(counted())
    # psycopg before 3.3 waits for the network in tasks of its own
    assert [work for work in tasks if work.__qualname__ != "Event.wait"] == []


def test_a_session_in_which_somebody_has_begun_anew_is_closed_where_it_can_be_waited_for() -> None:
    async def begun() -> int:
        engine = create_async_engine(db_of("postgresql18-async").url)
        session = AsyncSession(engine)
        await session.execute(sa.text("SELECT 1"))
        await closed(session)
        out: int = engine.pool.checkedout()  # type: ignore[attr-defined]
        await engine.dispose()
        return out

    assert asyncio.run(begun()) == 0


@pytest.mark.parametrize("colour", ["sync", "async", "exit", "inner"])
def test_the_way_in_which_an_application_closes_its_sessions_is_kept(colour: str) -> None:
    seen: list[str] = []

    class Closing(Session):
        def close(self) -> None:
            self.execute(sa.text("SELECT 1"))  # what it does may have to be waited for
            seen.append(colour)
            super().close()

    db = db_of("postgresql18" if colour == "sync" else "postgresql18-async")
    if colour == "sync":
        maker: Any = sessionmaker(db.engine, class_=Closing)
    else:

        class AsyncClosing(AsyncSession):
            async def close(self) -> None:
                seen.append(colour)
                await super().close()

        class AsyncLeaving(AsyncSession):
            async def __aexit__(self, *error: Any) -> None:
                seen.append(colour)
                await super().__aexit__(*error)

        words = {"class_": {"async": AsyncClosing, "exit": AsyncLeaving}.get(colour, AsyncSession)}
        maker = async_sessionmaker(db.engine, **words, sync_session_class=Closing if colour == "inner" else Session)
    idem = db.table(maker)

    @idem.transactional("closed", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    assert order("k") == order("k")
    assert len(seen) == 2
    with idem.transaction("closed.block", "k"):
        pass
    assert seen == [colour] * 3


def test_a_sessionmaker_that_is_still_bound_to_nothing_is_refused_at_first_use_with_the_cure(db: Database) -> None:
    from sqlalchemy.ext.asyncio import async_sessionmaker

    maker = async_sessionmaker() if db.is_async else sessionmaker()
    idem = db.table(maker)

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    assert "bound later" in repr(getattr(idem, "inner", idem))
    for use in (lambda: order("k"), idem.stats, lambda: idem.get("order", "k")):
        with pytest.raises(ValueError, match="bound to no"):
            use()
    maker.configure(bind=db.engine)
    assert order("k") == order("k")
    assert db.effects() == ["k"]


def test_a_function_is_asked_for_the_bind_at_first_use_and_once(db: Database) -> None:
    asked: list[Any] = []

    def bind() -> Any:
        asked.append(db.engine)
        return db.engine

    idem = db.table(bind)

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    assert asked == []
    assert order("k") == order("k")
    assert idem.stats().rows == 1
    assert len(asked) == 1
    wrong = db.table(lambda: "sqlite://")
    with pytest.raises(TypeError, match="takes an"):
        wrong.stats()


def test_a_bind_of_the_other_colour_is_refused_and_the_right_table_named(db: Database) -> None:
    if db.is_async:
        with pytest.raises(TypeError, match="AsyncIdemTable"):
            IdemTable(db.engine)
        with pytest.raises(TypeError, match="AsyncIdemTable"):
            IdemTable(maker_of(db))
    else:
        with pytest.raises(TypeError, match="use IdemTable"):
            AsyncIdemTable(db.engine)
        with pytest.raises(TypeError, match="use IdemTable"):
            AsyncIdemTable(maker_of(db))


@pytest.mark.parametrize("bind", [None, "sqlite://", 5], ids=repr)
def test_something_that_is_no_bind_is_refused(db: Database, bind: Any) -> None:
    with pytest.raises(TypeError, match="takes an"):
        (AsyncIdemTable if db.is_async else IdemTable)(bind)


def test_a_function_of_the_other_colour_is_refused_at_decoration(db: Database) -> None:
    async def coroutine(session: Any, key: str) -> None: ...

    def plain(session: Any, key: str) -> None: ...

    table = db.idem.inner if db.is_async else db.idem
    wrong, cure = (plain, "async def") if db.is_async else (coroutine, "AsyncIdemTable")
    with pytest.raises(TypeError, match=cure):
        table.transactional("order", key="key")(wrong)


@pytest.mark.parametrize("bind", ["engine", "sessionmaker", "table"])
def test_the_plain_import_decorates_as_a_table_does(db: Database, bind: str) -> None:
    given: Any = {"engine": db.engine, "sessionmaker": maker_of(db)}.get(bind)
    if given is None:
        given = getattr(db.idem, "inner", db.idem)

    if db.is_async:

        @idemtable.transactional(given, "order", key="key", tenant="tenant", payload=("key",))
        async def order(session: Any, key: str, tenant: str, item: str) -> int:
            return await session.run_sync(lambda sync: effect(sync, item))

        def call(*args: Any) -> Any:
            return db.loop.run(order.outcome(*args))  # type: ignore[union-attr]
    else:

        @idemtable.transactional(given, "order", key="key", tenant="tenant", payload=("key",))
        def order(session: Any, key: str, tenant: str, item: str) -> int:  # type: ignore[misc]
            return effect(session, item)

        call = order.outcome

    first, second, third = call("k", "a", "tea"), call("k", "a", "other"), call("k", "b", "tea")
    assert (first.replayed, second.replayed, third.replayed) == (False, True, False)
    assert first.value == second.value
    assert db.effects() == ["tea", "tea"]


def test_the_decorated_function_keeps_its_name_and_shows_its_call_without_the_session(db: Database) -> None:
    import inspect

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, *, item: str = "tea") -> int:
        """Make an order."""
        return 1

    function = getattr(order, "inner", order)
    assert function.__name__ == "order"
    assert function.__doc__ == "Make an order."
    assert list(inspect.signature(function).parameters) == ["key", "item"]
    assert inspect.isfunction(function)
    assert inspect.iscoroutinefunction(function) is db.is_async
    with pytest.raises(TypeError, match="key"):
        order()
    with pytest.raises(TypeError, match="unexpected"):
        order("k", other=1)
    assert db.rows() == []


def test_objects_that_the_function_loaded_stay_readable_after_the_call(db: Database) -> None:
    from tests.support.database import Effect

    kept: list[Effect] = []

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        row = Effect(name=key)
        session.add(row)
        session.flush()
        kept.append(row)
        return row.id

    assert order("k") == kept[0].id
    assert kept[0].name == "k"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED"])
def test_a_function_runs_at_the_level_asked_for_and_at_the_engines_own_otherwise(db: Database, level: str) -> None:
    if db.kind == "sqlite":
        level = "SERIALIZABLE"
    sql = {
        "postgresql": "SHOW transaction_isolation",
        "mariadb": "SELECT @@SESSION.tx_isolation",
        "mysql": "SELECT @@SESSION.transaction_isolation",
        "sqlite": "SELECT 'serializable'",
    }[db.kind]
    usual = {"postgresql": "read committed", "sqlite": "serializable"}.get(db.kind, "repeatable read")

    def level_of(session: Any) -> str:
        return str(session.scalar(sa.text(sql))).lower().replace("-", " ")

    @db.idem.transactional("asked", key="key", isolation_level=level)
    def asked(session: Any, key: str) -> str:
        effect(session, key)
        return level_of(session)

    @db.idem.transactional("usual", key="key")
    def own(session: Any, key: str) -> str:
        return level_of(session)

    first = asked.outcome("k")
    assert first.value == level.lower()
    assert asked.outcome("k").replayed
    assert own("k") == usual  # the connection went back to the pool as it was
    assert db.effects() == ["k"]


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "autocommit", "nonsense", 5], ids=repr)
def test_a_level_that_is_no_transactions_is_refused_at_decoration(db: Database, level: Any) -> None:
    with pytest.raises(ValueError, match="isolation_level="):

        @db.idem.transactional("order", key="key", isolation_level=level)
        def order(session: Any, key: str) -> None: ...


def test_a_level_that_the_database_does_not_have_is_refused_at_decoration_with_those_that_it_has() -> None:
    with pytest.raises(ValueError, match="takes one of READ UNCOMMITTED, SERIALIZABLE, not 'REPEATABLE READ'"):

        @db_of("sqlite").idem.transactional("order", key="key", isolation_level="REPEATABLE READ")
        def order(session: Any, key: str) -> None: ...


def test_an_expired_wait_of_a_duplicate_is_in_progress_and_runs_nothing(db: Database) -> None:
    """The first call is a joined one that its caller has not committed: whoever comes next waits in vain."""
    from datetime import timedelta

    runs = []

    @db.idem.transactional("order", key="key", wait=timedelta(0))
    def order(session: Any, key: str) -> int:
        runs.append(key)
        return effect(session, key)

    with db.session() as held:
        first = order.join(held.session, "k")
        with pytest.raises(InProgressError) as caught:
            order("k")
        assert caught.value.retry_after > 0
        assert caught.value.http_status == 409
        with pytest.raises(InProgressError), db.idem.transaction("order", "k", wait=timedelta(0)):
            runs.append("block")
        held.commit()
    assert order("k") == first
    assert runs == ["k"]


def test_cancelling_an_async_call_rolls_it_back() -> None:
    from tests.support.backends import BACKENDS, db_of

    for backend in BACKENDS:
        db = db_of(backend) if "async" in backend else None
        if db is None:
            continue

        async def scenario(db: Database = db) -> None:
            started = asyncio.Event()

            @db.idem.inner.transactional("order", key="key")
            async def order(session: Any, key: str) -> None:
                await session.run_sync(lambda sync: effect(sync, key))
                started.set()
                await asyncio.Event().wait()

            task = asyncio.ensure_future(order("k"))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        db.loop.run(scenario())  # type: ignore[union-attr]
        assert (db.effects(), db.rows()) == ([], []), backend


def test_a_scoped_session_stands_for_its_session(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    if db.is_async:
        from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker

        scoped: Any = async_scoped_session(async_sessionmaker(db.engine), scopefunc=lambda: 1)
    else:
        scoped = scoped_session(sessionmaker(db.engine))
    order.join(scoped, "a")
    with db.idem.claim(scoped, "block", "b") as claim:
        db.on(claim.session, lambda session: effect(session, "b"))
    assert db.effects() == []
    db.on(scoped(), lambda session: session.commit())
    assert db.effects() == ["a", "b"]
    tokens = desk(db)
    token = tokens.issue(session=scoped)
    with db.deleting():
        assert tokens.revoke(token, session=scoped) is True
        db.on(scoped(), lambda session: session.commit())
    if db.loop is not None:
        db.loop.run(scoped.remove())
    else:
        scoped.remove()


def test_a_session_without_an_engine_of_its_own_is_refused_with_the_cure(sync_db: Database) -> None:
    @sync_db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        raise AssertionError("it ran")

    with (
        Session(binds={Effect: sync_db.engine}) as session,
        pytest.raises(SessionNotUsableError, match="give it bind="),
    ):
        order.join(session, "k")


class Sharded(ShardedSession):
    """A session of one shard, whatever is asked for."""

    def __init__(self, shard: sa.Engine, **options: Any) -> None:
        super().__init__(
            shard_chooser=lambda *_: "one",
            identity_chooser=lambda *_, **__: ["one"],
            execute_chooser=lambda _: ["one"],
            shards={"one": shard},
            **options,
        )


def test_a_session_of_shards_is_refused_with_the_cure(db: Database) -> None:
    maker = sessionmaker if db.loop is None else async_sessionmaker
    kind = "class_" if db.loop is None else "sync_session_class"
    options: dict[str, Any] = {kind: Sharded, "shard": getattr(db.engine, "sync_engine", db.engine)}

    def order(session: Any, key: str) -> int:
        raise AssertionError("it ran")

    joining = db.idem.transactional("order", key="key")(order)
    of_its_own = db.table(maker(db.engine, **options)).transactional("own", key="key")(order)
    calls: list[Callable[[Any], Any]] = [
        lambda session: joining.join(session, "k"),
        lambda session: of_its_own("k"),
        lambda session: db.idem.claim_many(session, "many", ["k"]),
        lambda session: desk(db).issue(session=session),
        lambda session: db.idem.lock_name(session, "name"),
    ]
    for call in calls:
        with (
            db.session(**options) as held,
            pytest.raises(SessionNotUsableError, match="needs a Session of one shard's engine"),
        ):
            call(held.session)
    assert db.rows() == []
