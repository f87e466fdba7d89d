"""What the engine carries beyond functions that return or raise: writes undone without an error."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from idemtable import IdempotencyError, ResultUnreadableError
from idemtable.claim.attempt import Attempt
from idemtable.claim.call import Keys
from idemtable.claim.returned import RollBack, Unkept
from idemtable.claim.run import AsyncRun, Run
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, effect, take_out
from tests.support.plain import as_async


class Audited(Session):
    """A session to whose COMMIT a test listens."""


@contextmanager
def auditing(error: Exception) -> Iterator[None]:
    """Have an audit of the application's own, in another database, fail before each COMMIT."""

    def audit(session: Session) -> None:
        raise error

    sa.event.listen(Audited, "before_commit", audit)
    try:
        yield
    finally:
        sa.event.remove(Audited, "before_commit", audit)


def audited(db: Database, engine: Any) -> Any:
    """A table whose sessions are audited."""
    if db.is_async:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        return db.table(async_sessionmaker(engine, sync_session_class=Audited))
    return db.table(sessionmaker(engine, class_=Audited))


def answered(db: Database, key: str, work: Any) -> Any:
    """Run work as a call of the engine's own, as a feature would."""
    settings = getattr(db.idem, "inner", db.idem)._settings
    call = Keys(settings, "feature", str).block(key, None, None)
    if db.loop is None:
        return Run(settings, call).outcome(work)

    async def main() -> Any:
        return await AsyncRun(settings, call).outcome(as_async(work))

    return db.loop.run(main())


@pytest.mark.parametrize("key", ["k"])
def test_a_business_may_have_its_writes_undone_and_its_key_free_without_raising(db: Database, key: str) -> None:
    def refuse(session: Any) -> Any:
        effect(session, key)
        return RollBack("not this time")

    def agree(session: Any) -> Any:
        effect(session, key)
        return "done"

    outcome = answered(db, key, refuse)
    assert (outcome.value, outcome.replayed, outcome.attempts) == ("not this time", False, 1)
    assert (db.effects(), db.rows()) == ([], [])
    assert answered(db, key, agree).value == "done"
    assert answered(db, key, refuse).value == "done"
    assert db.effects() == [key]


def test_an_effect_may_be_committed_whose_result_is_not_kept(db: Database) -> None:
    def large(session: Any) -> Any:
        effect(session, "k")
        return Unkept("a whole document")

    outcome = answered(db, "k", large)
    assert (outcome.value, outcome.replayed) == ("a whole document", False)
    assert db.effects() == ["k"]
    for _ in range(2):
        with pytest.raises(ResultUnreadableError, match="its effect stands"):
            answered(db, "k", large)
    assert db.effects() == ["k"]
    assert bytes(db.rows()[0].result) == b""


def test_an_effect_may_be_committed_and_its_key_be_free_again_with_nothing_kept(db: Database) -> None:
    def secret(session: Any) -> Any:
        effect(session, "k")
        return Unkept("a password", frees=True)

    for times in (1, 2):
        outcome = answered(db, "k", secret)
        assert (outcome.value, outcome.replayed, outcome.attempts) == ("a password", False, 1)
        assert db.effects() == ["k"] * times
        assert [bytes(row.result) for row in db.rows()] == [b""]
    assert answered(db, "k", lambda session: "done").value == "done"
    assert answered(db, "k", secret).value == "done"
    assert db.effects() == ["k"] * 2


def breaks(session: Any) -> Any:
    effect(session, "k")
    raise ValueError("no")


def unreadable(session: Any) -> Any:
    effect(session, "k")
    return object()


def leaves(session: Any) -> Any:
    session.rollback()
    return "done"


@pytest.mark.parametrize("work", [breaks, unreadable, leaves])
def test_a_call_that_fails_is_undone_once(db: Database, work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    undone: list[BaseException] = []
    fail = Attempt.fail

    def counted(self: Attempt, error: BaseException) -> None:
        undone.append(error)
        fail(self, error)

    monkeypatch.setattr(Attempt, "fail", counted)
    with pytest.raises((ValueError, IdempotencyError)) as raised:
        answered(db, "k", work)
    assert undone == [raised.value]
    assert (db.effects(), db.rows()) == ([], [])


def test_a_drivers_error_that_an_application_raises_itself_leaves_the_pool_alone(db: Database) -> None:
    with db.other_engine() as engine:
        sync, idem = getattr(engine, "sync_engine", engine), audited(db, engine)
        pool, error = sync.pool, sync.dialect.dbapi.ProgrammingError("in another database")

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        order("a")
        with auditing(error):
            with pytest.raises(type(error)):
                order("b")
            with pytest.raises(type(error)), idem.transaction("pay", "k"):
                pass
        assert sync.pool is pool
        assert (order.outcome("a").replayed, order.outcome("b").replayed) == (True, False)
    assert db.effects() == ["a", "b"]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name.startswith("sqlite")])
def test_a_database_in_memory_outlives_it(backend: str) -> None:
    db = db_of(backend)
    memory = db.url.set(database=None)
    if db.is_async:
        from sqlalchemy.ext.asyncio import create_async_engine

        engine: Any = create_async_engine(memory, poolclass=sa.StaticPool)
    else:
        engine = sa.create_engine(memory, poolclass=sa.StaticPool)
    idem = audited(db, engine)
    idem.create_all()

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return 1

    order("a")
    with auditing(sqlite3.OperationalError("unable to open database file")), pytest.raises(sqlite3.OperationalError):
        order("b")
    assert order.outcome("a").replayed
    db.dispose(engine)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("when", ["first", "last"])
def test_a_connection_that_a_function_takes_out_of_its_pool_carries_the_call_to_its_end(
    db: Database, when: str, deferred: bool
) -> None:
    @db.idem.transactional("order", key="key", deferred=deferred)
    def order(session: Any, key: str) -> int:
        if when == "first":
            take_out(session)
        number = effect(session, key)
        if when == "last":
            take_out(session)
        return number

    assert order("k") == order("k")
    assert db.effects() == ["k"]


def test_a_connection_that_was_taken_out_of_its_pool_takes_a_call_in(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    with db.session() as held:
        held.run(take_out)
        number = order.join(held.session, "k")
        held.commit()
    assert order("k") == number
    assert db.effects() == ["k"]
