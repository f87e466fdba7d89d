"""The checks, seen to fail: each breaks the library in one place and expects the suite's own check to report it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import LostClaimError
from idemtable.claim.joined import Joined
from idemtable.dialects.base import Dialect
from idemtable.dialects.mysql import MySQL
from idemtable.dialects.postgresql import PostgreSQL
from idemtable.dialects.words import Fault
from idemtable.repository import Records
from tests.races.test_one_key import check_that_a_rollback_lets_one_of_the_waiters_run
from tests.support.backends import db_of
from tests.support.crowd import WAIT, crowd, one_run
from tests.support.database import Database, effect
from tests.support.lines import through_a_proxy

SERVERS = ["postgresql18", "mariadb"]


@pytest.fixture(params=SERVERS)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


# --- a claim that looks and then inserts, without the unique index ----------------------------------------------------


def check_that_two_who_looked_at_once_leave_one_effect(db: Database, idem: Any, one_is_done: threading.Event) -> None:
    @idem.transactional("order", key="key", wait=WAIT)
    def order(session: Any, key: str) -> dict[str, int]:
        return {"id": effect(session, key)}

    def call(_: int) -> Any:
        try:
            return order.outcome("k")
        finally:
            one_is_done.set()

    one_run(crowd(2, call))
    assert db.effects() == ["k"]


def test_the_check_finds_a_claim_that_looks_and_inserts_without_a_unique_index(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_have_looked, one_is_done = threading.Barrier(2, timeout=60), threading.Event()
    mutant = {"postgresql": PostgreSQL, "mariadb": MySQL, "mysql": MySQL}[db.kind]
    insert = mutant.claim

    def look_then_insert(self: Any, connection: Any, values: Any) -> bool:
        if self.statement("SELECT 1 FROM {table} WHERE id = :id")(connection, values).first():
            return False
        if both_have_looked.wait() == 0:
            one_is_done.wait(60)
        return bool(insert(self, connection, values))

    key = "DROP CONSTRAINT mutant_pkey" if db.kind == "postgresql" else "DROP PRIMARY KEY"
    idem = db.table(table="mutant")
    idem.create_all()
    try:
        # With the index even this claim is right: the second insert finds the first.
        monkeypatch.setattr(mutant, "claim", look_then_insert)
        check_that_two_who_looked_at_once_leave_one_effect(db, idem, one_is_done)

        db.sweep()
        one_is_done.clear()
        db.execute("DELETE FROM mutant")
        db.execute(f"ALTER TABLE mutant {key}")
        if db.kind == "postgresql":
            monkeypatch.setattr(PostgreSQL, "CLAIM", PostgreSQL.CLAIM.replace("ON CONFLICT (id) DO NOTHING", ""))
            idem = db.table(sa.create_engine(db.url), table="mutant")
            update = idem._settings.records.dialect.statement(Dialect.STORE)
            monkeypatch.setattr(
                PostgreSQL, "store", lambda self, connection, values, along: update(connection, values).rowcount > 0
            )
        with pytest.raises(AssertionError):
            check_that_two_who_looked_at_once_leave_one_effect(db, idem, one_is_done)
        assert db.effects() == ["k", "k"]
    finally:
        db.execute("DROP TABLE mutant")
        if idem._settings.engine is not db.engine:
            idem._settings.engine.dispose()


# --- a result stored without naming its owner -------------------------------------------------------------------------


def check_that_a_call_that_lost_its_claim_commits_nothing(db: Database) -> None:
    inner: list[Any] = []

    @db.idem.transactional("order", key="key", wait=WAIT)
    def order(session: Any, key: str) -> str:
        if not inner:
            inner.append(None)
            session.execute(sa.text("ROLLBACK"))  # and the claim is gone: somebody else takes it, and is done
            thread = threading.Thread(target=lambda: inner.append(order("k")))
            thread.start()
            thread.join(60)
            effect(session, "second")
            return "second"
        effect(session, "first")
        return "first"

    try:
        order("k")
    except LostClaimError:
        lost = True
    else:
        lost = False
    assert inner == [None, "first"]
    assert db.effects() == ["first"]
    assert lost
    assert order("k") == "first"


def test_a_call_that_lost_its_claim_to_another_commits_nothing(db: Database) -> None:
    check_that_a_call_that_lost_its_claim_commits_nothing(db)


def test_the_check_finds_a_store_that_does_not_name_the_owner(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = db.idem._settings.records.dialect
    anybodys = dialect.statement(
        "UPDATE {table} SET status = :status, codec = :codec, result = :result, completed_at = {now} WHERE id = :id"
    )
    monkeypatch.setattr(dialect, "along", lambda connection: None)
    monkeypatch.setattr(dialect, "store", lambda connection, values, along: anybodys(connection, values).rowcount == 1)
    with pytest.raises(AssertionError):
        check_that_a_call_that_lost_its_claim_commits_nothing(db)
    assert db.effects() == ["first", "second"]


def test_the_check_finds_a_store_that_does_not_count(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Records.store
    monkeypatch.setattr(type(db.idem._settings.records.dialect), "along", lambda self, connection: None)
    monkeypatch.setattr(Records, "store", lambda self, *args: store(self, *args) or True)
    with pytest.raises(AssertionError):
        check_that_a_call_that_lost_its_claim_commits_nothing(db)


# --- errors that are not known to ask for another attempt -------------------------------------------------------------


def test_the_check_finds_a_retry_that_does_not_know_deadlocks(monkeypatch: pytest.MonkeyPatch) -> None:
    db = db_of("mariadb")
    monkeypatch.setattr(MySQL, "faults", {code: fault for code, fault in MySQL.faults.items() if code != 1213})
    with pytest.raises(AssertionError, match="1213"):
        check_that_a_rollback_lets_one_of_the_waiters_run(db)


def check_that_a_cut_commit_is_not_seen(db: Database) -> None:
    with through_a_proxy(db) as line:

        @line.idem.transactional("order", key="key", wait=WAIT)
        def order(session: Any, key: str) -> dict[str, int]:
            return {"id": effect(session, key)}

        order("warm")
        cut = line.proxy.cut_after_commit()
        try:
            value = order("k")
        except sa.exc.DBAPIError as error:
            raise AssertionError("the caller saw the cut") from error
        assert cut.hit.is_set()
        assert order("k") == value


def test_the_check_finds_a_retry_that_does_not_know_lost_connections(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Dialect.fault

    def forgetful(self: Dialect, error: BaseException) -> Fault | None:
        found = fault(self, error)
        return None if found is Fault.UNKNOWN else found

    check_that_a_cut_commit_is_not_seen(db)
    db.sweep()
    monkeypatch.setattr(Dialect, "fault", forgetful)
    with pytest.raises(AssertionError, match="the caller saw the cut"):
        check_that_a_cut_commit_is_not_seen(db)


def test_the_check_finds_an_answer_of_ours_taken_for_a_replay_to_be_run_again(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who runs again after an unknown COMMIT instead of asking doubles the effect."""

    def forget_first(self: Records, connection: Any, request: Any, wait: float) -> bool:
        self.forget(connection, request.id, wait)
        return claim(self, connection, request, wait)

    claim = Records.claim
    monkeypatch.setattr(Records, "claim", forget_first)
    with pytest.raises(AssertionError):
        check_that_a_cut_commit_is_not_seen(db)


# --- a joined call without a savepoint --------------------------------------------------------------------------------


class Declined(Exception):
    pass


def check_that_a_swallowed_failure_leaves_no_key(db: Database) -> None:
    @db.idem.transactional("order", key="key", wait=WAIT)
    def order(session: Any, key: str, fail: bool = True) -> str:
        effect(session, key)
        if fail:
            raise Declined
        return "ran"

    with db.session() as mine:
        mine.run(lambda session: effect(session, "mine"))
        with pytest.raises(Declined):
            order.join(mine.session, "k")
        mine.commit()
    assert db.effects() == ["mine"]
    assert db.rows() == []


class NoSavepoint:
    """What looks like a savepoint and is none."""

    is_active = True

    def commit(self) -> None: ...
    def rollback(self) -> None: ...


def test_a_joined_failure_that_the_caller_swallows_leaves_no_key(db: Database) -> None:
    check_that_a_swallowed_failure_leaves_no_key(db)


def test_the_check_finds_a_joined_call_without_a_savepoint(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Joined, "_enter", lambda self: setattr(self, "_savepoint", NoSavepoint()))
    monkeypatch.setattr(Joined, "rollback", lambda self: None)
    with pytest.raises(AssertionError):
        check_that_a_swallowed_failure_leaves_no_key(db)
    assert db.effects() == ["mine", "k"]
