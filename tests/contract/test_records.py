"""Listing what is there: the newest records of one scope or of all, and the newest tokens of one."""

from __future__ import annotations

from idemtable import Status
from tests.houses import House
from tests.tokens.desks import desk


def age(house: House) -> None:
    """Make what is there older than whatever comes: SQLite's clock counts no more than milliseconds."""
    house.execute("UPDATE idemtable SET created_at = '2020-01-01 00:00:00.000000' WHERE created_at > '2020-01-02'")


def test_records_are_listed_newest_first(house: House) -> None:
    assert house.idem.records() == []
    for scope, key in (("orders", "r-1"), ("payments", "p-1")):
        with house.idem.transaction(scope, key):
            pass
        age(house)
    with house.idem.transaction("orders", "r-2"):
        pass
    assert house.idem.records(limit=1) == [house.idem.get("orders", "r-2")]
    assert [record.key for record in house.idem.records("orders")] == ["r-2", "r-1"]
    assert {record.scope for record in house.idem.records()} == {"orders", "payments"}
    assert house.idem.records("nothing") == []


def test_tokens_are_listed_newest_first_and_only_they(house: House) -> None:
    tokens = desk(house)
    with house.idem.transaction("checkout", "a key of the same scope"):
        pass
    assert tokens.records() == []
    tokens.issue("user:1")
    age(house)
    spent = tokens.issue("user:2")
    with house.session() as held:
        with tokens.redeem(held.session, spent, subject="user:2"):
            pass
        held.commit()
    assert [(record.tenant, record.status) for record in tokens.records()] == [
        ("user:2", Status.SPENT),
        ("user:1", Status.ISSUED),
    ]
    assert [record.tenant for record in tokens.records(limit=1)] == ["user:2"]
