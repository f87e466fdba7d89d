"""The outer transaction of a test: what is committed in it is gone afterwards, and the binds are as they were."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from idemtable import AsyncIdemTable, IdemTable, SessionNotUsableError
from idemtable.schema import create_all
from idemtable.testing import rolled_back
from tests.support import PATIENCE
from tests.support.backends import db_of
from tests.support.database import Database, Effect, effect
from tests.support.kit import databases

plain = databases("sqlite", "postgresql18", "mariadb", "mysql")
awaited = databases("sqlite-async", "postgresql18-asyncpg", "mariadb-async", "mysql-async")


def test_what_tables_and_sessions_commit_is_gone_afterwards(plain: Database) -> None:
    sessions = sessionmaker(plain.engine)
    idem, late = IdemTable(plain.engine), IdemTable(sessions)

    @idem.transactional("testing.rollback", key="key", share_scope=True)
    def order(session: Session, key: str) -> int:
        return effect(session, key)

    with rolled_back(idem, late, sessions) as connection:
        assert not order.outcome("k").replayed
        assert order.outcome("k").replayed
        with sessions() as session:
            session.add(Effect(name="mine", amount=1))
            session.commit()
        with late.transaction("testing.rollback.block", "k") as claim:
            effect(claim.session, "block")
        seen = connection.execute(sa.select(Effect.name).order_by(Effect.id)).scalars()
        assert list(seen) == ["k", "mine", "block"]
    assert (plain.effects(), plain.rows()) == ([], [])
    order("k")
    assert plain.effects() == ["k"]
    assert plain.engine.pool.checkedout() == 0


def test_what_is_bound_to_the_connection_by_hand_is_gone_too(plain: Database) -> None:
    with rolled_back(plain.engine) as connection:
        idem = IdemTable(sessionmaker(connection))
        with idem.transaction("testing.rollback.by_hand", "k") as claim:
            effect(claim.session, "k")
        assert connection.execute(sa.select(Effect.name)).scalars().all() == ["k"]
    assert (plain.effects(), plain.rows()) == ([], [])


def test_an_error_is_rolled_back_too_and_the_binds_are_as_they_were(plain: Database) -> None:
    sessions = sessionmaker(plain.engine, expire_on_commit=False)
    before = dict(sessions.kw)
    with pytest.raises(LookupError), rolled_back(sessions) as connection:
        assert sessions.kw["bind"] is connection
        with sessions() as session:
            effect(session, "k")
            session.commit()
        raise LookupError
    assert sessions.kw == before
    assert plain.effects() == []


def test_async_tables_and_sessions_are_rolled_back_by_async_with(awaited: Database) -> None:
    sessions = async_sessionmaker(awaited.engine)
    idem = AsyncIdemTable(awaited.engine)

    @idem.transactional("testing.rollback", key="key", share_scope=True)
    async def order(session: AsyncSession, key: str) -> int:
        return await session.run_sync(effect, key)

    async def work() -> None:
        async with rolled_back(idem, sessions) as connection:
            assert not (await order.outcome("k")).replayed
            assert (await order.outcome("k")).replayed
            async with sessions() as session:
                await session.run_sync(effect, "mine")
                await session.commit()
            seen = await connection.execute(sa.select(Effect.name).order_by(Effect.id))
            assert list(seen.scalars()) == ["k", "mine"]

    awaited.loop.run(work())  # type: ignore[union-attr]
    assert (awaited.effects(), awaited.rows()) == ([], [])


def test_a_call_while_another_thread_is_at_work_on_the_connection_is_told_so(plain: Database) -> None:
    idem, begun, goes_on = IdemTable(plain.engine), threading.Event(), threading.Event()

    @idem.transactional("testing.rollback.threads", key="key", share_scope=True)
    def order(session: Session, key: str) -> int:
        if key == "slow":
            begun.set()
            assert goes_on.wait(PATIENCE)
        return effect(session, key)

    with rolled_back(idem) as connection, ThreadPoolExecutor() as pool:
        slow = pool.submit(order, "slow")
        try:
            assert begun.wait(PATIENCE)
            for key in ("slow", "other"):
                with pytest.raises(SessionNotUsableError, match="Make one call after the other there"):
                    order(key)
        finally:
            goes_on.set()
        slow.result(PATIENCE)
        order("other")
        seen = connection.execute(sa.select(Effect.name).order_by(Effect.id)).scalars()
        assert list(seen) == ["slow", "other"]
    assert (plain.effects(), plain.rows()) == ([], [])


def test_a_call_while_another_task_is_at_work_on_the_connection_is_told_so(awaited: Database) -> None:
    idem = AsyncIdemTable(awaited.engine)

    @idem.transactional("testing.rollback.tasks", key="key", share_scope=True)
    async def order(session: AsyncSession, key: str) -> int:
        return await session.run_sync(effect, key)

    async def work() -> None:
        async with rolled_back(idem) as connection:
            found = await asyncio.gather(*map(order, ("one", "one", "other")), return_exceptions=True)
            assert [type(each) for each in found] == [int, SessionNotUsableError, SessionNotUsableError]
            await order("other")
            seen = await connection.execute(sa.select(Effect.name).order_by(Effect.id))
            assert list(seen.scalars()) == ["one", "other"]

    awaited.loop.run(work())  # type: ignore[union-attr]
    assert (awaited.effects(), awaited.rows()) == ([], [])


def test_a_call_inside_one_of_another_table_may_be_a_task_or_thread_of_its_own() -> None:
    db, async_db = db_of("sqlite"), db_of("sqlite-async")
    idem, other = IdemTable(db.engine), IdemTable(db.engine, table="testing_other")
    aidem, aother = AsyncIdemTable(async_db.engine), AsyncIdemTable(async_db.engine, table="testing_other")

    def both(session: Session, key: str) -> int:
        with other.transaction("testing.rollback.inner", key) as claim:
            return effect(claim.session, key)

    @idem.transactional("testing.rollback.outer", key="key", share_scope=True)
    def order(session: Session, key: str) -> int:
        with ThreadPoolExecutor() as pool:
            return pool.submit(copy_context().run, both, session, key).result(PATIENCE)

    @aidem.transactional("testing.rollback.outer", key="key", share_scope=True)
    async def aorder(session: AsyncSession, key: str) -> int:
        async def inner() -> int:
            async with aother.transaction("testing.rollback.inner", key) as claim:
                return await claim.session.run_sync(effect, key)

        return await asyncio.create_task(inner())

    async def work() -> None:
        async with rolled_back(aidem, aother) as connection:
            await connection.run_sync(create_all, "testing_other")
            assert not (await aorder.outcome("k")).replayed
            assert (await aorder.outcome("k")).replayed

    with rolled_back(idem, other) as connection:
        create_all(connection, "testing_other")
        assert not order.outcome("k").replayed
        assert order.outcome("k").replayed
        with idem.transaction("testing.rollback.outer", "by hand"):
            order("l")
    async_db.loop.run(work())  # type: ignore[union-attr]
    assert (db.effects(), async_db.effects()) == ([], [])


def test_what_cannot_be_rolled_back_together_is_refused() -> None:
    db, async_db = db_of("sqlite"), db_of("sqlite-async")
    with pytest.raises(TypeError, match="was given nothing"):
        rolled_back()
    with db.engine.connect() as connection, pytest.raises(TypeError, match="takes tables, sessionmakers and engines"):
        rolled_back(connection)
    with db.other_engine() as engine, pytest.raises(ValueError, match="bound to one engine"):
        rolled_back(db.idem, sessionmaker(engine))
    with pytest.raises(ValueError, match="bound to no Engine"):
        rolled_back(sessionmaker())
    with db.engine.connect() as connection, pytest.raises(ValueError, match="bound to a Connection already"):
        rolled_back(sessionmaker(connection))
    with pytest.raises(TypeError, match="async with rolled_back"), rolled_back(async_db.idem.inner):
        pass

    async def wrong() -> None:
        async with rolled_back(db.idem):
            pass

    with pytest.raises(TypeError, match=r"sync is rolled back by `with rolled_back"):
        async_db.loop.run(wrong())  # type: ignore[union-attr]


def test_the_outer_transaction_is_no_place_for_many_at_once(plain: Database) -> None:
    from idemtable.testing import assert_idempotent

    idem: Any = IdemTable(plain.engine)

    @idem.transactional("testing.rollback.inside", key="key", share_scope=True)
    def order(session: Session, key: str) -> int:
        return effect(session, key)

    with rolled_back(idem), pytest.raises(AssertionError, match="bind nothing to a Connection"):
        assert_idempotent(order, plain.engine)
