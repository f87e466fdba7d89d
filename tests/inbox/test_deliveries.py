"""Messages delivered again, to consumers that fail or do not: one effect each, and nothing in anybody's way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from idemtable import Status
from tests.support.crowd import WAIT, Beside, meanwhile
from tests.support.database import Database, effect
from tests.support.tokens import Gate


class Unprocessable(Exception):
    pass


def test_a_message_is_done_once_and_its_id_alone_decides(db: Database) -> None:
    @db.idem.inbox("inbox.once").transactional(message_id="message_id")
    def on_payment(session: Any, message_id: str, body: dict[str, Any]) -> int:
        return effect(session, message_id)

    first = on_payment.outcome("m-1", {"amount": 5, "deliveries": 1})
    again = on_payment.outcome("m-1", {"amount": 5, "deliveries": 2})

    assert (first.replayed, again.replayed) == (False, True)
    assert first.value == again.value
    assert db.effects() == ["m-1"]
    record = db.idem.get("inbox.once", "m-1")
    assert (record.status, record.fingerprint) == (Status.COMPLETED, None)


def test_each_consumer_does_a_message_once(db: Database) -> None:
    @db.idem.inbox("inbox.billing").transactional(message_id="message_id")
    def bill(session: Any, message_id: str) -> None:
        effect(session, "billed")

    @db.idem.inbox("inbox.shipping").transactional(message_id="message_id")
    def ship(session: Any, message_id: str) -> None:
        effect(session, "shipped")

    for _ in range(2):
        bill("m-1")
        ship("m-1")
    assert db.effects() == ["billed", "shipped"]


def checked_out(db: Database) -> int:
    return int(getattr(db.engine, "sync_engine", db.engine).pool.checkedout())


def test_a_poison_message_leaves_neither_a_key_nor_a_lock_nor_a_connection_and_others_go_on(db: Database) -> None:
    inbox, cured = db.idem.inbox("inbox.poison"), False

    @inbox.transactional(message_id="message_id")
    def on_payment(session: Any, message_id: str) -> int:
        made = effect(session, message_id)
        if message_id == "poison" and not cured:
            raise Unprocessable(message_id)
        return made

    before = checked_out(db)
    for number in range(3):
        with pytest.raises(Unprocessable):
            on_payment("poison")
        assert checked_out(db) == before
        assert db.idem.get("inbox.poison", "poison") is None
        # Whatever held the key, or on SQLite the database, would make this one give up at once.
        with pytest.raises(Unprocessable), db.idem.transaction("inbox.poison", "poison", wait=timedelta(0)):
            raise Unprocessable
        on_payment(f"m-{number}")
    assert sorted(row.key for row in db.rows()) == db.effects() == ["m-0", "m-1", "m-2"]
    cured = True
    assert not on_payment.outcome("poison").replayed
    assert db.effects("poison") == ["poison"]


def test_others_go_on_while_a_poison_message_fails_and_its_next_delivery_takes_its_place(server_db: Database) -> None:
    db, gate = server_db, Gate(server_db)
    runs: list[str] = []

    @db.idem.inbox("inbox.beside").transactional(message_id="message_id", wait=WAIT)
    def on_payment(session: Any, message_id: str) -> int:
        runs.append(message_id)
        if runs.count("poison") == 1 and message_id == "poison":
            gate.wait()
            raise Unprocessable
        return effect(session, message_id)

    first = Beside(lambda: on_payment("poison"))
    assert gate.reached.wait(60)
    for number in range(3):
        on_payment(f"m-{number}")
    again = Beside(lambda: on_payment.outcome("poison"))
    db.await_waiting(1)
    assert not first.over
    assert not again.over
    gate.open()

    with pytest.raises(Unprocessable):
        first.result()
    assert not again.result().replayed
    assert runs.count("poison") == 2
    assert db.effects() == ["m-0", "m-1", "m-2", "poison"]


def test_a_final_failure_is_remembered_and_no_delivery_runs_again(db: Database) -> None:
    runs: list[str] = []

    @db.idem.inbox("inbox.final").transactional(message_id="message_id", remember=Unprocessable)
    def on_payment(session: Any, message_id: str) -> None:
        runs.append(message_id)
        effect(session, message_id)
        raise Unprocessable("no such account")

    for _ in range(3):
        with pytest.raises(Unprocessable, match="no such account"):
            on_payment("m-1")
    assert runs == ["m-1"]
    assert db.effects() == []
    assert db.idem.get("inbox.final", "m-1").status is Status.FAILED


def test_two_deliveries_at_once_take_effect_once(server_db: Database) -> None:
    db = server_db

    @db.idem.inbox("inbox.twice").transactional(message_id="message_id", wait=WAIT)
    def on_payment(session: Any, message_id: str) -> int:
        made = effect(session, message_id)
        meanwhile(db, lambda: db.await_waiting(1))
        return made

    deliveries = [Beside(lambda: on_payment.outcome("m-1")) for _ in range(2)]
    outcomes = [delivery.result() for delivery in deliveries]
    assert sorted(outcome.replayed for outcome in outcomes) == [False, True]
    assert len({outcome.value for outcome in outcomes}) == 1
    assert db.effects() == ["m-1"]
