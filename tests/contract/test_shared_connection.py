"""A pool that gives everybody one connection: COMMIT and ROLLBACK there are everybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import SessionNotUsableError
from tests.support.backends import BACKENDS, HIRED, db_of
from tests.support.database import Database, Effect, effect
from tests.support.tokens import desk

SHARED = "gives everybody one connection"


POOLS = [(name, sa.StaticPool) for name in BACKENDS]
POOLS += [(name, sa.SingletonThreadPool) for name in BACKENDS if "async" not in name]  # which has one for each thread


@pytest.fixture(params=POOLS, ids=lambda pool: f"{pool[0]}-{pool[1].__name__}")
def pool(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def db(pool: Any) -> Database:
    return db_of(pool[0])


@pytest.fixture
def shared(db: Database, pool: Any) -> Iterator[Any]:
    """An engine with such a pool."""
    with db.other_engine(poolclass=pool[1]) as engine:
        yield engine


@pytest.fixture
def idem(db: Database, shared: Any) -> Any:
    return db.table(shared)


@pytest.fixture
def order(idem: Any) -> Any:
    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    return order


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_call_is_refused_while_somebody_elses_work_is_open_and_that_ends_as_its_owner_says(
    db: Database, shared: Any, idem: Any, order: Any, ends: str
) -> None:
    @idem.transactional("aside", key="key", lookaside=True)
    def aside(session: Any, key: str) -> int:
        return effect(session, key)

    order("done")
    aside("done")
    with db.session(shared) as held:
        held.run(lambda session: effect(session, "theirs"))
        for call in (order, aside):
            for key in ("done", "new"):
                with pytest.raises(SessionNotUsableError, match=SHARED):
                    call(key)
        with pytest.raises(SessionNotUsableError, match=SHARED), idem.transaction("block", "k", wait=timedelta(0)):
            pass
        getattr(held, ends)()
    assert db.effects() == ["done", "done", *(["theirs"] if ends == "commit" else [])]
    assert (order.outcome("done").replayed, order.outcome("new").replayed, len(db.rows())) == (True, False, 3)


def test_work_that_has_only_taken_locks_is_work(db: Database, shared: Any, order: Any) -> None:
    """PyMySQL and asyncmy do not hear of a transaction before it has written."""
    rows = sa.select(Effect.id).with_for_update()
    with db.session(shared) as held:
        held.run(lambda session: session.execute(rows).all())
        with pytest.raises(SessionNotUsableError, match=SHARED):
            order("k")
        held.rollback()
    order("k")
    assert db.effects() == ["k"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_session_there_carries_no_claim_while_the_first_is_at_work(
    db: Database, shared: Any, idem: Any, order: Any, begun: bool
) -> None:
    def claim(session: Any) -> None:
        with idem.claim(session, "block", "k"):
            pass

    joins = {
        "join": lambda session: order.join(session, "k"),
        "claim": claim,
        "claim_many": lambda session: idem.claim_many(session, "batch", ["k"]),
        "unseen": lambda session: list(idem.unseen(session, "batch", ["k"], key=str)),
        "issue": lambda session: desk(db, table=idem).issue("somebody", session),
    }
    for name, join in joins.items():
        with db.session(shared) as first:
            first.run(lambda session, name=name: effect(session, f"before {name}"))
            with db.session(shared) as second:
                if begun:
                    second.begin()
                with pytest.raises(SessionNotUsableError, match=SHARED):
                    join(second.session)
            join(first.session)  # in whose transaction there is nothing of anybody else's
            first.rollback()
            first.run(lambda session, name=name: effect(session, name))
            first.commit()
    assert (db.effects(), db.rows()) == (list(joins), [])
    with db.session(shared) as second:
        for join in joins.values():
            join(second.session)
        second.commit()
    assert len(db.rows()) == 4


def test_no_look_at_the_table_commits_what_somebody_else_has_not(
    db: Database, shared: Any, idem: Any, order: Any
) -> None:
    order("k")
    tokens = desk(db, table=idem)
    looks: list[Callable[[], object]] = [
        lambda: idem.get("order", "k"),
        lambda: idem.records("order"),
        lambda: idem.stats(),
        lambda: idem.check_schema(),
        lambda: tokens.issue(),
        lambda: tokens.records(),
    ]
    if not HIRED:  # where each of them is another user's, on a connection of its own
        looks += [lambda: idem.create_all(), lambda: idem.purge(), lambda: idem.forget("order", "k")]
    with db.session(shared) as held:
        held.run(lambda session: effect(session, "theirs"))
        for look in looks:
            with pytest.raises(SessionNotUsableError, match=SHARED):
                look()
        held.rollback()
    assert (db.effects(), len(db.rows())) == (["k"], 1)
    assert idem.get("order", "k") is not None
