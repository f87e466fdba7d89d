"""Listing what is there: the newest records of one scope or of all, and the newest tokens of one."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

import idemtable
from idemtable import LostClaimError, MissingTenantError, Status
from tests.support.database import Database
from tests.support.tokens import desk


def age(db: Database) -> None:
    """Make what is there older than whatever comes: SQLite's clock counts no more than milliseconds."""
    db.execute("UPDATE idemtable SET created_at = '2020-01-01 00:00:00.000000' WHERE created_at > '2020-01-02'")


def test_records_are_listed_newest_first(db: Database) -> None:
    assert db.idem.records() == []
    for scope, key in (("orders", "r-1"), ("payments", "p-1")):
        with db.idem.transaction(scope, key):
            pass
        age(db)
    with db.idem.transaction("orders", "r-2"):
        pass
    assert db.idem.records(limit=1) == [db.idem.get("orders", "r-2")]
    assert [record.key for record in db.idem.records("orders")] == ["r-2", "r-1"]
    assert {record.scope for record in db.idem.records()} == {"orders", "payments"}
    assert db.idem.records("nothing") == []


def kept(db: Database) -> None:
    """Records of two tenants: done, failed, expired, left without a result."""

    @db.idem.transactional("pay", key="key", tenant="tenant", remember=(ValueError,))
    def pay(session: Any, key: str, tenant: str) -> str:
        if key == "bad":
            raise ValueError("declined")
        if key == "stuck":
            session.commit()
        return "receipt-42"

    for key in ("old", "bad", "good", "stuck"):
        for tenant in ("ta", "tb", "ta "):
            with suppress(ValueError, LostClaimError):
                pay(key, tenant)
        if key == "old":
            db.expire()
    with db.idem.transaction("pay", "nobody's"):
        pass


def found(db: Database, *scope: str, **wanted: Any) -> set[tuple[str, str]]:
    return {(record.tenant, record.key) for record in db.idem.records(*scope, **wanted)}


def test_records_are_found_by_tenant_status_expiry_and_lack_of_a_result(db: Database) -> None:
    kept(db)
    keys = ("old", "bad", "good", "stuck")
    assert found(db, tenant="ta") == {("ta", key) for key in keys}
    assert found(db, tenant="tc") == found(db, "refund", tenant="ta") == set()
    tenants = ("ta", "tb", "ta ")
    assert found(db, status=Status.FAILED) == found(db, status="failed") == {(tenant, "bad") for tenant in tenants}
    assert found(db, tenant="tb", status=["failed", "completed"]) == {("tb", "bad"), ("tb", "good"), ("tb", "old")}
    assert found(db, expired=True) == {(tenant, "old") for tenant in tenants}
    assert found(db, unfinished=True) == found(db, status="in_progress") == {(tenant, "stuck") for tenant in tenants}
    assert found(db, "pay", tenant="ta", status="completed", expired=True) == {("ta", "old")}
    assert found(db, expired=True, unfinished=True) == found(db, status="failed", unfinished=True) == set()
    assert len(db.idem.records(status="completed", limit=2)) == 2


def test_a_status_of_a_newer_release_is_found_too(db: Database) -> None:
    kept(db)
    db.execute("UPDATE idemtable SET status = 77 WHERE tenant = 'tb' AND status = 1")
    assert found(db, status="unknown") == {("tb", "good"), ("tb", "old")}
    assert found(db, tenant="tb", status=["unknown", "failed"]) == {("tb", "good"), ("tb", "old"), ("tb", "bad")}


def test_expired_records_are_those_that_the_next_call_takes_over(db: Database) -> None:
    """The time to live counts from the completion: what the call took is added to the column."""
    with db.idem.transaction("orders", "k"):
        pass
    shifted = sa.update(idemtable.metadata.tables["idemtable"])
    rows, now = idemtable.metadata.tables["idemtable"].c, datetime.now(UTC)
    for minutes, expired in ((50, False), (70, True)):
        times = {
            rows.created_at: now - timedelta(minutes=minutes + 60),
            rows.expires_at: now - timedelta(minutes=minutes),
        }
        with db.admin.begin() as connection:
            connection.execute(shifted.values(times | {rows.completed_at: now - timedelta(minutes=minutes)}))
        assert bool(db.idem.records(expired=True)) is expired is (db.idem.get("orders", "k").expires_at < now)


def test_what_cannot_be_looked_for_is_refused(sync_db: Database) -> None:
    for wrong in (
        {"status": "lock"},
        {"status": "done"},
        {"status": ["failed", "done"]},
        {"status": 5},
        {"status": False},
        {"status": [["failed"]]},
        {"limit": 0},
        {"limit": 10**6},
    ):
        with pytest.raises(ValueError, match=r"status is one of|limit must be"):
            sync_db.idem.records(**wrong)
    for flag in ("expired", "unfinished"):
        with pytest.raises(TypeError, match=f"{flag}= takes True or False, not 'no'"):
            sync_db.idem.records(**{flag: "no"})
    with pytest.raises(MissingTenantError):
        sync_db.idem.records(tenant="")
    with pytest.raises(ValueError, match="limit must be"):
        desk(sync_db).records(limit=-1)


def test_a_stored_result_can_be_looked_at(db: Database) -> None:
    kept(db)
    assert db.idem.stored_result("pay", "good", tenant="ta") == b'"receipt-42"'
    assert b"declined" in db.idem.stored_result("pay", "bad", tenant="ta")
    assert db.idem.stored_result("pay", "stuck", tenant="ta") is None
    assert db.idem.stored_result("pay", "good") is None


def test_tokens_are_listed_newest_first_and_only_they(db: Database) -> None:
    tokens = desk(db)
    with db.idem.transaction("checkout", "a key of the same scope"):
        pass
    assert tokens.records() == []
    tokens.issue("user:1")
    age(db)
    spent = tokens.issue("user:2")
    with db.session() as held:
        with tokens.redeem(held.session, spent, subject="user:2"):
            pass
        held.commit()
    assert [(record.tenant, record.status) for record in tokens.records()] == [
        ("user:2", Status.SPENT),
        ("user:1", Status.ISSUED),
    ]
    assert [record.tenant for record in tokens.records(limit=1)] == ["user:2"]
