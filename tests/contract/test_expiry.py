"""An expired record counts as absent, by the database's clock; taking it over is decided once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import idemtable
from idemtable import FingerprintMismatchError, Status
from tests.support.database import Database, effect


@pytest.fixture
def order(db: Database) -> Any:
    @db.idem.transactional("order", key="key", remember=(LookupError,))
    def order(session: Any, key: str, amount: int = 1) -> int:
        number = effect(session, key, amount)
        if amount < 0:
            raise LookupError
        return number

    return order


def test_an_expired_key_runs_again_and_replays_its_new_result(db: Database, order: Any) -> None:
    first = order("k")
    db.expire()
    second = order.outcome("k")

    assert not second.replayed
    assert second.value != first
    assert order.outcome("k").value == second.value
    assert order.outcome("k").replayed
    assert db.effects() == ["k", "k"]
    assert len(db.rows()) == 1


def test_an_expired_key_is_free_for_another_payload(db: Database, order: Any) -> None:
    order("k", 1)
    with pytest.raises(FingerprintMismatchError):
        order("k", 2)
    db.expire()
    assert not order.outcome("k", 2).replayed
    assert order.outcome("k", 2).replayed
    with pytest.raises(FingerprintMismatchError):
        order("k", 1)


def test_an_expired_failure_runs_again(db: Database, order: Any) -> None:
    with pytest.raises(LookupError):
        order("k", -1)
    db.expire()
    assert not order.outcome("k", 1).replayed
    assert db.idem.get("order", "k").status is Status.COMPLETED


def test_taking_over_starts_the_records_life_anew(db: Database, order: Any) -> None:
    order("k")
    db.expire()
    before = db.idem.get("order", "k")
    order("k", 2)
    after = db.idem.get("order", "k")

    assert after.created_at > before.created_at
    assert abs(after.expires_at - after.created_at - timedelta(days=7)) < timedelta(seconds=1)  # two looks at the clock
    assert after.fingerprint != before.fingerprint


def test_a_takeover_that_fails_leaves_the_expired_record_as_it_was(db: Database) -> None:
    fail = [False]

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        number = effect(session, key)
        if fail[0]:
            raise LookupError
        return number

    order("k")
    db.expire()
    before = db.rows()
    fail[0] = True
    with pytest.raises(LookupError):
        order("k")
    assert db.rows() == before
    assert db.effects() == ["k"]


def test_a_joined_call_takes_an_expired_record_over_inside_the_callers_transaction(db: Database, order: Any) -> None:
    order("k")
    db.expire()
    with db.session() as held:
        order.join(held.session, "k")
        held.rollback()
    assert db.effects() == ["k"]
    with db.session() as held:
        order.join(held.session, "k")
        held.commit()
    assert db.effects() == ["k", "k"]
    assert order.outcome("k").replayed


def test_a_block_takes_an_expired_record_over(db: Database) -> None:
    with db.idem.transaction("pay", "k", payload=[1]) as claim:
        claim.result = "first"
    db.expire()
    with db.idem.transaction("pay", "k", payload=[2]) as claim:
        assert not claim.replayed
        assert claim.record is None
        claim.result = "second"
    with db.idem.transaction("pay", "k", payload=[2]) as claim:
        assert claim.result == "second"


def test_the_ttl_of_the_function_goes_before_the_tables_own(db: Database) -> None:
    short = db.table(ttl=timedelta(hours=1))

    @short.transactional("tables", key="key")
    def tables(session: Any, key: str) -> None: ...

    @short.transactional("own", key="key", ttl=timedelta(seconds=90))
    def own(session: Any, key: str) -> None: ...

    tables("k")
    own("k")
    with short.transaction("block", "k", ttl=timedelta(microseconds=1_500_000)):
        pass
    lives = {}
    for scope in ("tables", "own", "block"):
        record = short.get(scope, "k")
        lives[scope] = record.expires_at - record.created_at
    near = timedelta(seconds=1)  # the database looks at its clock twice
    assert abs(lives["tables"] - timedelta(hours=1)) < near
    assert abs(lives["own"] - timedelta(seconds=90)) < near
    assert timedelta(seconds=1.5) <= lives["block"] + timedelta(milliseconds=1) < timedelta(seconds=1.5) + near


def test_a_record_that_has_not_expired_yet_replays(db: Database) -> None:
    """Three zones lie between the session's, UTC and the application's: an hour of error would show here."""

    @db.idem.transactional("order", key="key", ttl=timedelta(minutes=1))
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    order("k")
    assert order.outcome("k").replayed
    assert db.idem.purge().deleted == 0


def test_the_ttl_counts_from_the_completion(db: Database) -> None:
    ttl = timedelta(minutes=1)

    @db.idem.transactional("order", key="key", ttl=ttl, remember=(LookupError,))
    def order(session: Any, key: str) -> str:
        if key == "broken":
            raise LookupError
        return key

    order("k")
    with pytest.raises(LookupError):
        order("broken")
    took = timedelta(minutes=5)  # as if both had begun so long before they were done
    for row in db.rows():
        rows = idemtable.metadata.tables["idemtable"]
        times = {"created_at": row.created_at - took, "expires_at": row.created_at - took + ttl}
        with db.admin.begin() as connection:
            connection.execute(rows.update().where(rows.c.id == row.id).values(times))
    for key in ("k", "broken"):
        record = db.idem.get("order", key)
        assert abs(record.expires_at - record.completed_at - ttl) < timedelta(seconds=1)
        assert record.completed_at - record.created_at >= timedelta(minutes=4)
    assert order.outcome("k").replayed, "four minutes after its column says that it has expired"
    with pytest.raises(LookupError):
        order("broken")
    assert db.idem.stats().expired == 0
    assert db.idem.purge().deleted == 0
