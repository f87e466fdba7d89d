"""Each check is seen to fail: the library is broken in one place, and the line of the report says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import cycle
from typing import Any

import pytest

from idemtable.claim import call
from idemtable.claim.attempt import Attempt
from idemtable.dialects import Fault
from idemtable.dialects.base import Dialect
from idemtable.dialects.mysql import MySQL
from idemtable.dialects.postgresql import PostgreSQL
from idemtable.dialects.sqlite import SQLite
from idemtable.repository import Records
from idemtable.verify import herds, interleavings, kills, storm, traps
from idemtable.verify.ground import Ground
from idemtable.verify.race import Check
from idemtable.verify.stage import Stage
from tests.verify.conftest import rounds

KINDS = {"postgresql": PostgreSQL, "mysql": MySQL, "sqlite": SQLite}
SERVERS = ["postgresql18", "mariadb"]
on_servers = pytest.mark.parametrize("database_url", SERVERS, indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
EVERY_RACE = {"herd": (herds.herd, 4), "interleavings": (interleavings.interleavings, 24)}


def kind(stage: Stage) -> type[Dialect]:
    return KINDS[stage.ground.engine.dialect.name]


def look_then_act(self: Any, connection: Any, values: Any) -> bool:
    """Claim what nobody seems to have, and leave it to the store to write it down."""
    return not self.statement("SELECT 1 FROM {table} WHERE id = :id")(connection, values).rows


def write_down(self: Any, connection: Any, values: Any, along: Any) -> bool:
    found = self.statement("SELECT 1 FROM {table} WHERE id = :id")(connection, values).rows
    sql = (
        "UPDATE {table} SET codec = :codec, result = :result WHERE id = :id"
        if found
        else "INSERT INTO {table} (id, scope, status, owner, codec, result, created_at, completed_at, expires_at) "
        "VALUES (:id, 'verify', :status, :owner, :codec, :result, {now}, {now}, {later})"
    )
    self.statement(sql)(connection, {**values, "ttl": 10**9})
    return True


def a_promise_is_broken(check: Check, *words: str) -> bool:
    said = " ".join(check.broken)
    return not check.kept and all(word in said for word in words)


@on_servers  # BEGIN IMMEDIATE lets nobody look before another one has acted
@pytest.mark.parametrize("name", EVERY_RACE)
def test_a_claim_that_looks_and_then_acts_is_found(name: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    look, count = EVERY_RACE[name]
    assert look(stage, rounds(count)).kept
    monkeypatch.setattr(kind(stage), "claim", look_then_act)
    monkeypatch.setattr(kind(stage), "along", lambda self, connection: None)
    monkeypatch.setattr(kind(stage), "store", write_down)
    check = look(stage, rounds(count))
    assert not check.kept
    assert [race for race in check.races if race.broken and race.events], "no picture of it"


@on_sqlite
def test_a_claim_without_the_write_lock_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SQLite, "claim", look_then_act)
    monkeypatch.setattr(SQLite, "store", write_down)
    monkeypatch.setattr("idemtable.dialects.explicit._wanted", _Deaf())
    assert not herds.herd(stage, rounds(4)).kept


class _Deaf:
    """A context variable that keeps nothing: every transaction begins deferred."""

    def get(self) -> None:
        return None

    def set(self, value: Any) -> None: ...
    def reset(self, token: Any) -> None: ...


@on_servers  # SQLite's driver tells that the transaction is gone, before anything is stored
def test_a_store_without_the_owner_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert herds.rollback(stage, rounds(4)).kept
    sql = "UPDATE {table} SET status = :status, codec = :codec, result = :result, completed_at = {now} WHERE id = :id"

    def anybodys(self: Any, connection: Any, values: Any, along: Any) -> bool:
        return self.statement(sql)(connection, values).rowcount == 1

    monkeypatch.setattr(kind(stage), "along", lambda self, connection: None)
    monkeypatch.setattr(kind(stage), "store", anybodys)
    assert a_promise_is_broken(herds.rollback(stage, rounds(4)), "replies")


@on_servers  # BEGIN IMMEDIATE lets nobody see a row that another one is taking over
def test_a_take_over_of_a_row_that_is_not_the_one_seen_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert herds.expiry(stage, rounds(2)).kept

    def whoever_has_it(self: Any, connection: Any, values: Any) -> bool:
        sql = "UPDATE {table} SET owner = :owner, status = 0, created_at = {now}, expires_at = {later} WHERE id = :id"
        return self.statement(sql)(connection, values).rowcount == 1

    monkeypatch.setattr(kind(stage), "take_over", whoever_has_it)
    check = herds.expiry(stage, rounds(8))  # whoever comes after the COMMIT sees a new record, and is no race
    assert a_promise_is_broken(check, "effects")
    assert any("more than one server" in why for why in check.why)


def forget(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Dialect.fault

    def forgetful(self: Dialect, error: BaseException) -> Fault | None:
        found = known(self, error)
        return None if found is fault else found

    monkeypatch.setattr(Dialect, "fault", forgetful)


@on_servers
def test_a_retry_that_does_not_know_lost_connections_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(Fault.UNKNOWN, monkeypatch)
    assert a_promise_is_broken(kills.kills(stage, rounds(4)), "a caller got")


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)  # of its waiters all but one meet a deadlock
def test_a_retry_that_does_not_know_deadlocks_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(Fault.RESTART, monkeypatch)
    assert a_promise_is_broken(herds.rollback(stage, rounds(2)), "Deadlock")


@pytest.mark.parametrize("database_url", ["postgresql18", "mariadb"], indirect=True)
def test_the_storm_really_meets_deadlocks_and_finds_an_effect_that_is_lost(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = storm.deadlocks(stage, rounds(10))
    assert check.kept
    assert int(check.seen.split()[0]) >= 2, check.seen
    write = Ground.write
    written: list[Any] = []

    def forgets_one(self: Ground, session: Any, id: Any) -> None:
        written.append(id)
        if len(written) % 4:
            write(self, session, id)

    monkeypatch.setattr(Ground, "write", forgets_one)
    assert a_promise_is_broken(storm.deadlocks(stage, rounds(10)), "effects were committed for 3 keys")


@on_servers
def test_an_answer_that_runs_again_after_a_lost_commit_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Records.claim

    def forget_first(self: Records, connection: Any, request: Any, wait: float) -> bool:
        self.forget(connection, request.id)
        return claim(self, connection, request, wait)

    monkeypatch.setattr(Records, "claim", forget_first)
    assert a_promise_is_broken(kills.kills(stage, rounds(kills.least(stage))), "effects")


@on_servers
def test_a_failure_that_is_committed_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attempt, "fail", lambda self, error: self._tx.session.commit())
    assert a_promise_is_broken(herds.rollback(stage, rounds(1)), "a caller got")


@on_servers
def test_a_reply_of_a_record_that_has_expired_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    find = Records.find

    def young(self: Records, *args: Any) -> Any:
        stored = find(self, *args)
        return stored and replace(stored, record=replace(stored.record, expires_at=stored.now + timedelta(days=1)))

    monkeypatch.setattr(Records, "find", young)
    assert a_promise_is_broken(herds.expiry(stage, rounds(2)), "expired")


@on_servers
def test_callers_of_a_round_in_which_nothing_could_be_ended_are_judged_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "wire", lambda driver: None)
    monkeypatch.setattr(Ground, "write", lambda self, session, id: None)
    check = kills.kills(stage, rounds(1))
    assert a_promise_is_broken(check, "0 effects")
    assert any("sockets were not shut" in text for text in check.left_out)


@on_sqlite
def test_keys_that_are_folded_are_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = call.digest
    monkeypatch.setattr(call, "digest", lambda tenant, scope, key: digest(tenant, scope.strip(), key.casefold()))
    assert a_promise_is_broken(traps.collations(stage), "taken for another one")


@on_sqlite
def test_keys_that_live_too_long_are_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    values = Records._values

    def longer(self: Records, request: Any, wait: float) -> dict[str, Any]:
        return values(self, request, wait) | {"ttl": request.ttl * 1000}

    monkeypatch.setattr(traps, "_PATIENCE", 1.0)
    monkeypatch.setattr(Records, "_values", longer)
    assert a_promise_is_broken(traps.clock(stage), "did not expire")


@on_sqlite
def test_clocks_that_differ_are_found_and_said_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    now, behind = Records.now, cycle([timedelta(), timedelta(seconds=1)])
    monkeypatch.setattr(Records, "now", lambda self, connection: now(self, connection) - next(behind))
    monkeypatch.setattr(traps, "_PATIENCE", 0.0)
    check = traps.clock(stage)
    assert len([text for text in check.broken if "the clock went back by" in text]) == 1
    assert len([why for why in check.why if "whose clocks differ" in why]) == 1
