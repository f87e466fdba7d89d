"""innodb_rollback_on_timeout = ON: a wait for a lock in vain undoes the whole transaction, and the caller is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.orm import Session

from idemtable import IdemTable
from idemtable.errors import RetryTransactionError
from idemtable.guards import StateMachine, compare_and_set, lock
from tests.servers import mariadb, mysql
from tests.support.guards import Base, Order, Parcel

SECOND = timedelta(seconds=1)
ORDERS = StateMachine(Order.status, {"created": {"paid"}})
PARCELS = StateMachine(Parcel.status, {"created": {"paid"}})


@pytest.fixture(scope="module", params=[mariadb, mysql])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    with request.param(extra=["innodb_rollback_on_timeout=ON", "innodb_lock_wait_timeout=1"]) as server:
        server.create_database("undone")
        engine = sa.create_engine(server.url("undone"))
        Base.metadata.create_all(engine)
        IdemTable(engine).create_all()
        yield engine
        engine.dispose()


def redeem(idem: IdemTable, session: Session, token: str) -> None:
    with idem.tokens("form", ttl=SECOND * 99).redeem(session, token):
        pass


def claim(idem: IdemTable, session: Session, token: str) -> None:
    with idem.claim(session, "block", "k"):
        pass


WAYS: dict[str, Callable[[IdemTable, Session, str], Any]] = {
    "lock": lambda idem, session, token: lock(session, Order, 7, wait=SECOND),
    "lock as long as the database waits": lambda idem, session, token: lock(session, Order, 7),
    "lock_name": lambda idem, session, token: idem.lock_name(session, "n", wait=SECOND),
    "a step": lambda idem, session, token: ORDERS.advance(session, 7, to="paid"),
    "an event": lambda idem, session, token: PARCELS.advance(session, "a", to="paid", event_id="e", idem=idem),
    "compare_and_set": lambda idem, session, token: compare_and_set(session, Order, 7, version=1, values={}),
    "claim": claim,
    "claim_many": lambda idem, session, token: idem.claim_many(session, "many", ["k"]),
    "redeem": redeem,
    "revoke": lambda idem, session, token: idem.tokens("form", ttl=SECOND).revoke(token, session),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_half_of_the_callers_work_is_committed(
    engine: sa.Engine, way: Callable[[IdemTable, Session, str], Any]
) -> None:
    idem = IdemTable(engine, wait=SECOND)
    token = idem.tokens("form", ttl=SECOND * 99).issue()
    with Session(engine) as session, session.begin():
        for model in (Order, Parcel):
            session.execute(sa.delete(model))
        session.add_all([Order(number=7), Parcel(code="a")])
    with Session(engine) as holder, holder.begin():
        lock(holder, Order, 7)
        lock(holder, Parcel, "a")
        idem.lock_name(holder, "n")
        claim(idem, holder, token)
        idem.claim_many(holder, "many", ["k"])
        redeem(idem, holder, token)
        with Session(engine) as session:
            session.add(Order(number=1))
            session.flush()
            with pytest.raises(RetryTransactionError):
                way(idem, session, token)
            session.add(Order(number=2))
            with pytest.raises(PendingRollbackError):
                session.flush()
        holder.rollback()
    with Session(engine) as session:
        assert session.scalars(sa.select(Order.number)).unique().all() == [7]
