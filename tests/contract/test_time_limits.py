"""A limit of the server's own on a statement's time, shorter than the wait: whoever waits for somebody is told so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import InProgressError, RowLockedError
from idemtable.guards import lock
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, Effect, effect
from tests.support.tokens import desk

WAIT = timedelta(seconds=20)
LIMITS = {
    "postgresql": "SET statement_timeout = 200",
    "mariadb": "SET SESSION max_statement_time = 0.2",
    "mysql": "SET SESSION max_execution_time = 200",  # of a SELECT, and of nothing else
}

LOCKS = {"postgresql": ["LOCK TABLE idemtable IN ACCESS EXCLUSIVE MODE", "COMMIT"]}
_LOCKS = ["LOCK TABLES idemtable WRITE", "UNLOCK TABLES"]


@pytest.fixture(params=[name for name in BACKENDS if name.startswith(tuple(LIMITS))])
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture
def limited(db: Database) -> Iterator[Any]:
    """An engine whose sessions have such a limit."""

    def limit(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(LIMITS[db.kind])
        cursor.close()
        connection.commit()

    with db.other_engine() as engine:
        sa.event.listen(getattr(engine, "sync_engine", engine), "connect", limit)
        yield engine


@contextmanager
def holding(db: Database, *scopes: str) -> Iterator[int]:
    """Somebody who has claimed a key in each scope, a name and a row, and is still at it."""
    with db.deleting(), db.session() as holder:  # a lock by name takes DELETE on InnoDB
        number: int = holder.run(lambda session: effect(session, "held"))
        holder.commit()
        holder.run(lambda session: session.get(Effect, number, with_for_update=True))
        for scope in scopes:
            db.idem.claim_many(holder.session, scope, ["k"])
        db.idem.lock_name(holder.session, "payout")
        yield number
        holder.rollback()


def test_a_row_that_is_waited_for_past_it_is_locked(db: Database, limited: Any) -> None:
    with holding(db) as number, db.session(limited) as held:
        with pytest.raises(RowLockedError):
            held.run(lambda session: lock(session, Effect, number, wait=WAIT))
        held.rollback()


def test_a_key_that_is_waited_for_past_it_is_in_progress(db: Database, limited: Any) -> None:
    if db.kind == "mysql":  # whose claim, an INSERT, waits as long as it may
        return
    idem = db.table(limited, wait=WAIT)

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    with holding(db, "order", "pay", "batch"):
        with pytest.raises(InProgressError):
            order("k")
        with pytest.raises(InProgressError), idem.transaction("pay", "k"):
            pass
        joins: list[tuple[type[Exception], Callable[[Any], object]]] = [
            (InProgressError, lambda session: order.join(session, "k")),
            (InProgressError, lambda session: idem.claim_many(session, "batch", ["k"])),
            (RowLockedError, lambda session: idem.lock_name(session, "payout", wait=WAIT)),
        ]
        for error, join in joins:
            with db.session(limited) as held:
                with pytest.raises(error):
                    join(held.session)
                held.rollback()
    assert (order("k"), db.effects("k")) == (order("k"), ["k"])


def test_who_looks_at_the_table_and_waits_for_no_key_is_told_of_the_limit_itself(db: Database, limited: Any) -> None:
    idem = db.table(limited)
    lock_table, unlock = LOCKS.get(db.kind, _LOCKS)
    looks = [idem.stats, idem.records, lambda: idem.get("order", "k"), desk(db, table=idem).records]
    with db.admin.connect() as holder:
        holder.exec_driver_sql(lock_table)
        for look in looks:
            with pytest.raises(sa.exc.DBAPIError):
                look()
        holder.exec_driver_sql(unlock)
    assert idem.stats().rows == 0
