"""A time limit comes out of a call as it went in, also where it breaks a statement off: Celery's, RQ's, asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from idemtable import AsyncIdemTable, IdemTable
from tests.support.backends import BACKENDS, db_of
from tests.support.crowd import WAIT
from tests.support.database import Database, Effect, effect
from tests.support.limits import TimeLimit, interrupting

SERVERS = [name for name in BACKENDS if not name.startswith("sqlite")]
SYNC = [name for name in SERVERS if "async" not in name]
WAITING_IN_PYTHON = [name for name in SYNC if BACKENDS[name][1] in ("postgresql+psycopg", "mysql+pymysql")]
"""Others have their answer before a signal's handler is run."""


@contextmanager
def locked(db: Database) -> Iterator[int]:
    """A row that somebody else is changing."""
    with db.session() as holder:
        number: int = holder.run(lambda session: effect(session, "theirs"))
        holder.commit()
        holder.run(lambda session: session.get(Effect, number, with_for_update=True))
        yield number
        holder.rollback()


class Shop:
    """Functions that wait for a row, one inside the other, and how often they ran."""

    def __init__(self, db: Database, engine: sa.Engine, remember: tuple[type[Exception], ...] = ()) -> None:
        self.db, self.engine, self.ran = db, engine, list[str]()
        self.idem: IdemTable = db.table(engine, wait=WAIT)
        idem = self.idem
        self.row: int | None = None

        @idem.transactional("limits.inner", key="key", remember=remember, share_scope=True)
        def inner(session: Any, key: str) -> str:
            self.ran.append("inner")
            effect(session, key)
            if self.row is not None:
                session.execute(sa.update(Effect).where(Effect.id == self.row).values(amount=2))
            return key

        @idem.transactional("limits.outer", key="key", share_scope=True)
        def outer(session: Any, key: str) -> str:
            self.ran.append("outer")
            effect(session, key)
            return str(inner(key))

        self.inner, self.outer = inner, outer

    def call(self, way: str, key: str) -> str:
        match way:
            case "alone":
                return str(self.inner(key))
            case "inside a call":
                return str(self.outer(key))
            case "inside a block":
                with self.idem.transaction("limits.block", key, returns=str) as claim:
                    claim.result = self.inner(key)
                return key
            case _:
                with self.db.session(self.engine) as mine:
                    done = str(self.inner.join(mine.session, key))
                    mine.commit()
                return done


WAYS = ["alone", "inside a call", "inside a block", "joined"]


@pytest.mark.parametrize("remember", [(), (ValueError,)], ids=["", "another is remembered"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", SYNC)
def test_a_time_limit_that_breaks_a_statement_off_ends_the_call_and_leaves_nothing(
    backend: str, way: str, remember: tuple[type[Exception], ...]
) -> None:
    db = db_of(backend)
    with db.other_engine() as engine:
        shop = Shop(db, engine, remember)
        with locked(db) as shop.row:
            if backend in WAITING_IN_PYTHON:
                with pytest.raises(TimeLimit), interrupting(db):
                    shop.call(way, "k")
                assert engine.pool.checkedout() == 0
                assert shop.ran == (["outer", "inner"] if way == "inside a call" else ["inner"])
        shop.row = None
        assert (db.effects("k"), db.rows()) == ([], [])
        assert shop.call(way, "k") == "k"
        assert engine.pool.checkedout() == 0


@pytest.mark.parametrize("backend", WAITING_IN_PYTHON)
def test_a_time_limit_that_breaks_a_statement_off_is_not_remembered(backend: str) -> None:
    db = db_of(backend)
    with db.other_engine() as engine:
        shop = Shop(db, engine, (Exception,))
        with locked(db) as shop.row, pytest.raises(TimeLimit), interrupting(db):
            shop.inner("k")
        shop.row = None
        assert shop.inner("k") == "k"
        assert shop.inner.outcome("k").replayed
    assert shop.ran == ["inner", "inner"]


@pytest.mark.parametrize(
    "remember", [(ValueError,), (TimeoutError,), (Exception,)], ids=lambda names: names[0].__name__
)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if "async" in name])
def test_a_time_out_of_asyncios_that_breaks_a_statement_off_is_raised_and_not_remembered(
    backend: str, remember: tuple[type[Exception], ...]
) -> None:
    db, ran = db_of(backend), list[str]()

    async def main() -> tuple[int, str, bool]:
        engine = create_async_engine(db.url)

        @AsyncIdemTable(engine).transactional("limits.order", key="key", remember=remember)
        async def order(session: AsyncSession, key: str) -> str:
            ran.append(key)
            session.add(Effect(name=key))
            await session.flush()
            if len(ran) == 1:
                async with asyncio.timeout(0):
                    await session.execute(sa.text("SELECT 1"))
            return key

        with pytest.raises(TimeoutError):
            await order("k")
        left = len(await asyncio.to_thread(db.rows))
        again = await order("k")
        replayed = (await order.outcome("k")).replayed
        await engine.dispose()
        return left, again, replayed

    assert asyncio.run(main()) == (0, "k", True)
    assert (ran, db.effects()) == (["k", "k"], ["k"])
