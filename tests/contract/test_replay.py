"""What every database must keep, in both colours: one effect, one answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError

from idemtable import FingerprintMismatchError, LostClaimError, Status
from tests.support.database import Database, effect


def test_a_second_call_replays_the_result_and_runs_nothing(db: Database) -> None:
    runs = []

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, item: str) -> dict[str, int]:
        runs.append(key)
        return {"id": effect(session, item)}

    first = order.outcome("k", "tea")
    second = order.outcome("k", "tea")

    assert (first.replayed, second.replayed) == (False, True)
    assert first.value == second.value
    assert first.created_at is None
    assert second.created_at is not None
    assert second.created_at.utcoffset() == timedelta(0)
    assert runs == ["k"]
    assert db.effects() == ["tea"]


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}], ids=repr)
def test_an_empty_result_is_a_result(db: Database, value: Any) -> None:
    runs = []

    @db.idem.transactional("empty", key="key")
    def empty(session: Any, key: str) -> Any:
        runs.append(key)
        return value

    assert empty("k") == empty("k") == value
    assert type(empty("k")) is type(value)
    assert runs == ["k"]


def test_the_same_key_with_another_payload_is_refused_and_changes_nothing(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, amount: int) -> int:
        return effect(session, key, amount)

    order("k", 1)
    before = db.rows()
    with pytest.raises(FingerprintMismatchError) as caught:
        order("k", 2)

    assert "k" not in str(caught.value).split()
    assert db.rows() == before
    assert db.effects() == ["k"]


def test_a_function_that_raises_leaves_nothing_behind_and_runs_again(db: Database) -> None:
    fail = [True]

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        number = effect(session, key)
        if fail.pop():
            raise LookupError("out of stock")
        return number

    fail.append(True)
    with pytest.raises(LookupError):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])
    fail[:] = [False]
    order("k")
    assert db.effects() == ["k"]


def test_a_commit_inside_the_function_is_noticed_and_never_run_again_until_forgotten(db: Database) -> None:
    commit = [True]

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        number = effect(session, key)
        if commit[0]:
            session.commit()
        return number

    with pytest.raises(LostClaimError):
        order("k")
    assert db.effects() == ["k"]
    commit[0] = False
    with pytest.raises(LostClaimError):
        order("k")
    db.expire()
    with pytest.raises(LostClaimError):
        order("k")
    assert db.idem.purge().deleted == 0
    assert db.idem.get("order", "k").status is Status.IN_PROGRESS
    assert db.effects() == ["k"]
    assert db.idem.forget("order", "k")
    order("k")
    assert db.effects() == ["k", "k"]


def test_whoever_keeps_the_session_of_a_call_finds_it_closed(db: Database) -> None:
    """A background task would begin a transaction in it that nobody ends."""
    kept: list[Any] = []

    @db.idem.transactional("kept", key="key")
    def order(session: Any, key: str) -> int:
        kept.append(session)
        return effect(session, key)

    order("k")
    with pytest.raises(InvalidRequestError, match="permanently closed"):
        kept[0].execute(sa.text("SELECT 1"))
    assert db.effects() == ["k"]
