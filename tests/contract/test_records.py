"""Listing what is there: the newest records of one scope or of all, and the newest tokens of one."""

from __future__ import annotations

from idemtable import Status
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
