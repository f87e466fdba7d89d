"""A test suite's transaction: a sessionmaker bound to a Connection, whose outer transaction will be rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from idemtable import LostClaimError, RetryTransactionError, SessionNotUsableError, Status
from tests.support.database import Database, Effect, effect


@contextmanager
def outer(db: Database) -> Iterator[tuple[Any, Any]]:
    """A table bound to a connection in which a fixture's row stands, and a look at what that connection sees."""
    if db.loop is None:
        with db.engine.connect() as connection:
            transaction = connection.begin()
            connection.execute(sa.insert(Effect).values(name="fixture", amount=1))
            idem = db.table(sessionmaker(connection))
            yield idem, lambda: list(connection.scalars(sa.select(Effect.name).order_by(Effect.id)))
            assert transaction.is_active
            transaction.rollback()
    else:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        connection = db.loop.run(db.engine.connect().__aenter__())
        try:
            transaction = db.loop.run(connection.begin().__aenter__())
            db.loop.run(connection.execute(sa.insert(Effect).values(name="fixture", amount=1)))
            idem = db.table(async_sessionmaker(connection))

            def look() -> list[str]:
                found = db.loop.run(connection.execute(sa.select(Effect.name).order_by(Effect.id)))  # type: ignore[union-attr]
                return list(found.scalars())

            yield idem, look
            assert transaction.is_active
            db.loop.run(transaction.rollback())
        finally:
            db.loop.run(connection.close())


class Declined(Exception):
    pass


def test_everything_happens_in_savepoints_and_goes_with_the_outer_rollback(db: Database) -> None:
    with db.deleting(), outer(db) as (idem, look):

        @idem.transactional("order", key="key", remember=(Declined,))
        def order(session: Any, key: str, fail: str = "") -> str:
            effect(session, key)
            if fail == "decline":
                raise Declined
            if fail:
                raise LookupError
            return key

        assert [order.outcome("a").replayed for _ in range(2)] == [False, True]
        with pytest.raises(LookupError):
            order("b", "break")
        for _ in range(2):
            with pytest.raises(Declined):
                order("c", "decline")
        with idem.transaction("pay", "k") as claim:
            db.on(claim.session, lambda session: effect(session, "block"))
            claim.result = 1
        with idem.transaction("pay", "k") as claim:
            assert claim.replayed
        if db.loop is None:
            tokens = idem.tokens("checkout", ttl=timedelta(minutes=1))
            assert tokens.revoke(tokens.issue()) is True
        assert idem.get("order", "a").key == "a"
        assert idem.forget("order", "a") is True
        assert idem.stats().rows == 2
        assert idem.purge().deleted == 0
        assert look() == ["fixture", "a", "block"]
    assert (db.effects(), db.rows()) == ([], [])


def test_what_would_begin_again_is_told_and_an_isolation_level_is_refused(db: Database) -> None:
    with outer(db) as (idem, look):

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> str:
            effect(session, key)
            raise RetryTransactionError("begin again")

        with pytest.raises(RetryTransactionError):
            order("k")

        @idem.transactional("strict", key="key", isolation_level="SERIALIZABLE")
        def strict(session: Any, key: str) -> str:
            return key

        with pytest.raises(SessionNotUsableError, match="bound to a Connection"):
            strict("k")
        assert look() == ["fixture"]


@contextmanager
def left_open(db: Database) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """A table bound to a connection in a transaction, and what commits that."""
    if db.loop is None:
        with db.engine.connect() as connection:
            connection.begin()
            yield db.table(sessionmaker(connection)), connection.commit
    else:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        connection = db.loop.run(db.engine.connect().__aenter__())
        try:
            db.loop.run(connection.begin().__aenter__())
            yield db.table(async_sessionmaker(connection)), lambda: db.loop.run(connection.commit())  # type: ignore[union-attr]
        finally:
            db.loop.run(connection.close())


@pytest.mark.parametrize("way", [["COMMIT"], ["COMMIT", "BEGIN"], ["ROLLBACK", "BEGIN"]], ids=" ".join)
def test_a_function_that_ends_the_outer_transaction_as_text_is_a_lost_claim_and_nothing_follows_it(
    db: Database, way: list[str]
) -> None:
    with left_open(db) as (idem, commit):

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> None:
            effect(session, "before")
            for sql in way:
                session.connection().exec_driver_sql(sql)
            effect(session, "after")

        with pytest.raises(LostClaimError, match="broke out"):
            order("k")
        with suppress(sa.exc.SQLAlchemyError):
            commit()  # of a suite that has swallowed that
    one_by_one = way == ["COMMIT"] and (db.kind == "sqlite" or db.url.get_driver_name() in ("asyncpg", "psycopg2"))
    assert db.effects() == ["before"] * (way[0] == "COMMIT") + ["after"] * one_by_one
    assert [row.status for row in db.rows()] == [Status.IN_PROGRESS.code] * (way[0] == "COMMIT")


def test_a_rebound_sessionmaker_is_followed(sync_db: Database) -> None:
    maker = sessionmaker(sync_db.engine)
    idem = sync_db.table(maker)

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    order("before")
    with sync_db.engine.connect() as connection:
        transaction = connection.begin()
        maker.configure(bind=connection)
        order("within")
        transaction.rollback()
    maker.configure(bind=sync_db.engine)
    order("after")
    assert sync_db.effects() == ["before", "after"]


def test_an_engine_with_other_execution_options_is_the_same_database(db: Database) -> None:
    named = db.table(db.engine.execution_options(logging_token="audit"))

    @named.transactional("audit", key="key")
    def audit(session: Any, key: str) -> int:
        return effect(session, "audit")

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        effect(session, "order")
        audit(key)
        raise LookupError

    with pytest.raises(LookupError):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])
