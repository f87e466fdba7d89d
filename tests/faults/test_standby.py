"""A synchronous standby that is gone: an answer is given when COMMIT would be, and what was answered the standby has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import Flag, InProgressError, outcome_of
from idemtable.dialects.postgresql import PostgreSQL
from tests import servers
from tests.support.backends import BACKENDS, needed
from tests.support.crowd import WAIT, Beside, until
from tests.support.database import Database, effect
from tests.support.lines import engine_at
from tests.support.proxy import Proxy
from tests.support.tokens import desk

_scopes = count()


class Declined(Exception):
    pass


@pytest.fixture(scope="module")
def primary() -> Iterator[servers.Server]:
    """A server that is the test's own to configure and to kill."""
    with needed():
        server = servers.postgresql()
    with server:
        yield server


@pytest.fixture(params=["postgresql18", "postgresql18-async"])
def db(primary: servers.Server, request: pytest.FixtureRequest) -> Iterator[Database]:
    name = f"db_{next(_scopes)}"
    primary.create_database(name)
    db = Database(request.param, sa.make_url(primary.url(name)), BACKENDS[request.param][1])
    yield db
    db.close()
    primary.drop_database(name)


def configure(db: Database, standbys: str) -> None:
    """Have COMMIT wait for standbys, or for none."""
    with db.admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"ALTER SYSTEM SET synchronous_standby_names = '{standbys}'")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    await_(db, "SELECT current_setting('synchronous_standby_names')", standbys)
    # The session knows. Everybody's COMMIT goes by what the checkpointer has told, and on a busy machine that comes later.
    with db.admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CHECKPOINT")


def await_(db: Database, sql: str, value: Any) -> None:
    until(lambda: db.execute(sql)[0][0] == value, lambda: f"{sql}: {db.execute(sql)[0][0]}")


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@contextmanager
def nobody_there(db: Database) -> Iterator[None]:
    configure(db, "nobody")
    try:
        yield
    finally:
        configure(db, "")


def forms(db: Database, wait: timedelta = WAIT) -> dict[str, Callable[[], Any]]:
    """What answers from a row that is there, each with what it gives."""

    @db.idem.transactional(f"standby.{next(_scopes)}", key="key", wait=wait)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    @db.idem.transactional(f"standby.{next(_scopes)}", key="key", wait=wait, lookaside=True)
    def aside(session: Any, key: str) -> int:
        return effect(session, key)

    @db.idem.transactional(f"standby.{next(_scopes)}", key="key", wait=wait, remember=Declined)
    def declined(session: Any, key: str) -> int:
        raise Declined(key)

    tokens = desk(db, f"standby.{next(_scopes)}", replay=True)
    token = tokens.issue()

    @tokens.transactional(token="token", wait=wait)
    def redeem(session: Any, token: str) -> int:
        return effect(session, "token")

    def remembered() -> Any:
        with pytest.raises(Declined) as caught:
            declined("k")
        return outcome_of(caught.value)

    def block() -> Any:
        with db.idem.transaction(f"standby.block.{db.url.database}", "k") as claim:
            if not claim.replayed:
                claim.result = db.on(claim.session, lambda session: effect(session, "block"))
        return claim

    def joined() -> Any:
        with db.session() as mine:
            outcome = order.join_outcome(mine.session, "k")
            mine.commit()
        return outcome

    batch = f"standby.{next(_scopes)}"

    def many() -> Any:
        with db.session() as mine:
            flags = db.idem.claim_many(mine.session, batch, ["a", "b"], wait=wait)
            mine.commit()
        return SimpleNamespace(replayed=flags == [Flag.Seen, Flag.Seen])

    def unseen() -> Any:
        with db.session() as mine:
            items = list(db.idem.unseen(mine.session, batch, ["a", "b"], key=str, wait=wait))
            mine.commit()
        return SimpleNamespace(replayed=not items)

    return {
        "call": lambda: order.outcome("k"),
        "look aside": lambda: aside.outcome("k"),
        "remembered": remembered,
        "token": lambda: redeem.outcome(token),
        "block": block,
        "joined": joined,
        "many": many,
        "unseen": unseen,
    }


@pytest.mark.parametrize("form", ["call", "look aside", "remembered", "token", "block", "joined", "many", "unseen"])
def test_an_answer_from_a_row_waits_for_the_standby_as_its_commit_did(db: Database, form: str) -> None:
    call = forms(db)[form]
    first = call()
    assert not first.replayed
    with nobody_there(db):
        again = Beside(call)
        await_(db, WAITING, 1)  # and it has not answered
        assert db.idem.get("standby.none", "k") is None, "a look at a record waits for nobody"
    assert again.result().replayed


@pytest.mark.parametrize("form", ["call", "look aside", "joined", "many"])
def test_an_answer_that_waits_for_whoever_deletes_its_row_waits_as_long_as_the_call_may(
    db: Database, form: str
) -> None:
    call = forms(db, timedelta(seconds=2))[form]
    call()
    with nobody_there(db), db.admin.connect() as deleting:
        deleting.execute(sa.text("DELETE FROM idemtable"))
        again = Beside(call)
        until(lambda: db.waiting() == 1, "it does not wait")
        with pytest.raises(InProgressError):
            again.result()
        deleting.rollback()


def test_the_check_finds_an_answer_that_does_not_wait(primary: servers.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgreSQL, "settled", "true")
    name = f"db_{next(_scopes)}"
    primary.create_database(name)
    db = Database("postgresql18", sa.make_url(primary.url(name)), BACKENDS["postgresql18"][1])
    try:
        call = forms(db)["call"]
        call()
        with nobody_there(db):
            assert call().replayed, "at once, whatever the standby has"
    finally:
        db.close()
        primary.drop_database(name)


def commit_is_cut_off(db: Database, primary: servers.Server) -> tuple[threading.Thread, list[Any]]:
    """Have a call's COMMIT wait for a standby that is gone, and cut its line; return the call and what it is told."""
    told: list[Any] = []
    proxy = Proxy(primary.port)
    engine = engine_at(db, proxy.port)
    idem = db.table(engine)

    @idem.transactional(f"standby.{next(_scopes)}", key="key", wait=WAIT)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    def call() -> None:
        with proxy:
            try:
                told.append(order.outcome("k"))
            except Exception as error:
                told.append(error)
            finally:
                db.dispose(engine)

    thread = threading.Thread(target=call)
    thread.start()
    await_(db, WAITING, 1)
    # The server has committed, here, and ends without having told its client.
    pid = db.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")[0][0]
    db.execute("SELECT pg_terminate_backend(:pid)", pid=pid)
    await_(db, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}", 0)
    return thread, told


def lost_with_the_primary() -> tuple[list[Any], list[str]]:
    """Kill a primary whose standby was gone when a call committed; return what the call was told, and what is left."""
    with needed():
        primary = servers.postgresql()
    with primary:
        primary.create_database("shop")
        db = Database("postgresql18", sa.make_url(primary.url("shop")), BACKENDS["postgresql18"][1])
        follower = servers.standby(primary, "follower")
        with follower:
            configure(db, "follower")
            await_(db, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", 1)
            follower.kill()
            await_(db, "SELECT count(*) FROM pg_stat_replication", 0)
            thread, told = commit_is_cut_off(db, primary)
            until(lambda: told or db.execute(WAITING)[0][0], "the COMMIT neither waits nor ends")
            assert db.effects() == ["k"], "here it is committed"
            primary.kill()
            thread.join(60)
            follower.start()
            after = sa.create_engine(follower.url("shop"))
            with after.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.exec_driver_sql("SELECT pg_promote()")
                left = list(connection.exec_driver_sql("SELECT name FROM effect").scalars())
            after.dispose()
        db.close()
    return told, left


def test_what_only_the_primary_had_committed_was_answered_to_nobody() -> None:
    (answer,), left = lost_with_the_primary()
    assert left == []
    assert isinstance(answer, Exception), "it was acknowledged, and it is lost"


def test_the_check_finds_an_acknowledged_key_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgreSQL, "settled", "true")
    (answer,), left = lost_with_the_primary()
    assert left == []
    assert not isinstance(answer, Exception)
