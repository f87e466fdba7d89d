"""A test suite's transaction: a sessionmaker bound to a Connection, whose outer transaction will be rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from idemtable import RetryTransactionError, SessionNotUsableError
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
