"""A server that does not take writes: the connection is given up, another is taken, and the call goes on for its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
import tenacity

from idemtable import RetryTransactionError, SessionNotUsableError
from idemtable.claim import retry
from tests import servers
from tests.support.backends import BACKENDS, db_of, needed
from tests.support.crowd import WAIT
from tests.support.database import Database, effect

_scopes = count()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin again without a pause: what is tested is not how long the pause is."""
    monkeypatch.setattr(retry, "_FAR", tenacity.wait_none())


def order_of(db: Database, idem: Any) -> Any:
    @idem.transactional(f"elsewhere.{next(_scopes)}", key="key", wait=WAIT)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    return order


# --- MySQL's own word for it ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["mysql", "mysql-async", "mysql-several"])
def mysql(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@contextmanager
def secondary(db: Database, engine: Any, until: int | None) -> Iterator[list[int]]:
    """Have the server refuse writes, as a secondary does, until it has refused so many; yield what it has said."""
    refusals: list[int] = []

    def count_them(context: Any) -> None:
        refusals.append(context.original_exception.args[0])
        if len(refusals) == until:
            db.execute("SET GLOBAL super_read_only = OFF")

    sa.event.listen(getattr(engine, "sync_engine", engine), "handle_error", count_them)
    db.execute("SET GLOBAL super_read_only = ON")
    try:
        yield refusals
    finally:
        db.execute("SET GLOBAL super_read_only = OFF")
        db.execute("SET GLOBAL read_only = OFF")


@pytest.mark.parametrize("attempts", [1, 8])
def test_a_call_goes_on_until_a_server_takes_it_however_few_attempts_it_has(mysql: Database, attempts: int) -> None:
    with mysql.other_engine() as engine:
        order = order_of(mysql, mysql.table(engine, attempts=attempts))
        order("before")
        with secondary(mysql, engine, until=12) as refusals:
            outcome = order.outcome("k")
        assert refusals == [1290] * 12
    assert (outcome.replayed, outcome.attempts) == (False, 13)
    assert mysql.effects() == ["before", "k"]


def test_when_its_time_is_over_the_call_says_what_the_server_said(mysql: Database) -> None:
    with mysql.other_engine() as engine:
        order = order_of(mysql, mysql.table(engine, failover=timedelta(milliseconds=200)))
        order("before")
        with secondary(mysql, engine, until=None) as refusals, pytest.raises(sa.exc.DBAPIError, match="1290"):
            order("k")
        assert len(refusals) > 1
        assert order.outcome("k").attempts == 1
    assert mysql.effects() == ["before", "k"]


def test_no_time_is_no_second_try(mysql: Database) -> None:
    with mysql.other_engine() as engine:
        order = order_of(mysql, mysql.table(engine, failover=timedelta()))
        order("before")
        with secondary(mysql, engine, until=None) as refusals, pytest.raises(sa.exc.DBAPIError, match="1290"):
            order("k")
    assert len(refusals) == 1


def test_whoever_holds_the_transaction_is_told_at_once(mysql: Database) -> None:
    with mysql.other_engine() as engine:
        idem = mysql.table(engine)
        order = order_of(mysql, idem)
        order("before")
        with secondary(mysql, engine, until=None) as refusals:
            with mysql.session(engine) as mine, pytest.raises(SessionNotUsableError, match="need the primary"):
                order.join(mine.session, "k")
            with (
                pytest.raises((SessionNotUsableError, RetryTransactionError)),
                idem.transaction(f"elsewhere.{next(_scopes)}", "k"),
            ):
                pass
        assert len(refusals) == 2


def test_what_the_application_has_made_read_only_is_refused_at_once(mysql: Database) -> None:
    said: list[int] = []
    with mysql.other_engine(pool_size=1, max_overflow=0) as engine:
        sync = getattr(engine, "sync_engine", engine)
        sa.event.listen(sync, "begin", lambda one: one.exec_driver_sql("SET SESSION TRANSACTION READ ONLY"))
        sa.event.listen(sync, "handle_error", lambda context: said.append(context.original_exception.args[0]))
        order = order_of(mysql, mysql.table(engine))
        with pytest.raises(SessionNotUsableError, match="read-only"):
            for _ in range(3):  # the setting is of the transaction after this one
                order(f"k{len(said)}-{_}")
    assert said == [1792]


@pytest.mark.parametrize("wait", [None, 10])
def test_a_setting_of_the_time_is_checked(wait: int | None) -> None:
    with pytest.raises(TypeError, match="failover= takes a timedelta"):
        db_of("sqlite").table(failover=wait)
    with pytest.raises(ValueError, match="failover must be between zero"):
        db_of("sqlite").table(failover=timedelta(hours=2))


# --- a standby of PostgreSQL's --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[servers.Server, servers.Server]]:
    """A primary and its standby."""
    with needed():
        primary = servers.postgresql()
    with primary:
        primary.create_database("shop")
        with servers.standby(primary, "follower") as follower:
            yield primary, follower


@pytest.mark.parametrize("backend", ["postgresql18", "postgresql18-async", "postgresql18-asyncpg", "postgresql16"])
def test_a_call_that_has_come_to_a_standby_takes_another_connection(
    pair: tuple[servers.Server, servers.Server], backend: str
) -> None:
    primary, follower = pair
    db = Database(backend, sa.make_url(primary.url("shop")), BACKENDS[backend][1])
    db.sweep()
    try:
        with db.admin.connect() as connection:  # what the call needs has arrived there
            done = connection.exec_driver_sql("SELECT pg_current_wal_lsn()::text").scalar_one()
        there = sa.create_engine(follower.url("shop"), poolclass=sa.NullPool)
        with there.connect() as connection:
            sql = sa.text("SELECT pg_last_wal_replay_lsn() >= CAST(:done AS pg_lsn)")
            while not connection.execute(sql, {"done": done}).scalar_one():
                connection.rollback()
        ports = [follower.port, follower.port]
        with db.other_engine() as engine:

            @sa.event.listens_for(getattr(engine, "sync_engine", engine), "do_connect")
            def choose(dialect: Any, record: Any, args: Any, parameters: dict[str, Any]) -> None:
                parameters["port"] = ports.pop() if ports else primary.port

            outcome = order_of(db, db.table(engine)).outcome("k")
        assert (outcome.replayed, outcome.attempts) == (False, 3 if ports == [] else 0)
        assert db.effects() == ["k"]
    finally:
        db.close()
