"""Many callers of one key at once: one effect, one reply, and whoever lost really waited."""

from __future__ import annotations

import threading
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import InProgressError, Status
from idemtable.claim import steps
from idemtable.claim.steps import Moment, Step
from tests.support.crowd import (
    WAIT,
    Beside,
    backend_id,
    crowd,
    held,
    is_locked,
    kill_backend,
    meanwhile,
    one_run,
    until,
    watching,
)
from tests.support.database import INNODB, Database, effect

CALLERS = 8


class Declined(Exception):
    pass


def check_that_one_of_many_runs(db: Database, idem: Any = None, callers: int = CALLERS) -> None:
    runs: list[str] = []
    with watching(db) as watch:

        @(idem or db.idem).transactional("order", key="key", wait=WAIT)
        def order(session: Any, key: str) -> dict[str, int]:
            runs.append(key)
            number = effect(session, key)
            meanwhile(db, lambda: watch.await_waiting(callers - 1))
            return {"id": number}

        answers = crowd(callers, lambda _: order.outcome("k"))

    assert one_run(answers)["id"] > 0
    assert runs == ["k"]
    assert db.effects() == ["k"]


def test_of_many_callers_one_runs_while_all_others_wait_for_its_reply(db: Database) -> None:
    check_that_one_of_many_runs(db)


def check_that_a_rollback_lets_one_of_the_waiters_run(db: Database, callers: int = CALLERS) -> None:
    runs: list[str] = []
    with watching(db) as watch:

        @db.idem.transactional("order", key="key", wait=WAIT)
        def order(session: Any, key: str) -> dict[str, int]:
            runs.append(key)
            number = effect(session, key)
            if len(runs) == 1:
                meanwhile(db, lambda: watch.await_waiting(callers - 1))
                raise Declined
            return {"id": number}

        answers = crowd(callers, lambda _: order.outcome("k"))

    declined = [answer for answer in answers if isinstance(answer, Declined)]
    assert len(declined) == 1, answers
    one_run([answer for answer in answers if answer not in declined])
    # A winner that a deadlock of the other waiters takes down runs again: more runs, but never more effects.
    assert len(runs) >= 2
    assert db.effects() == ["k"]


@pytest.mark.parametrize("callers", [2, CALLERS])
def test_when_the_winner_rolls_back_exactly_one_waiter_runs_and_no_error_surfaces(db: Database, callers: int) -> None:
    check_that_a_rollback_lets_one_of_the_waiters_run(db, callers)


def test_when_the_winners_connection_is_killed_all_still_get_one_reply(server_db: Database) -> None:
    db = server_db
    killed = []

    @db.idem.transactional("order", key="key", wait=WAIT)
    def order(session: Any, key: str) -> dict[str, int]:
        number = effect(session, key)
        if not killed:
            killed.append(backend_id(db, session))
            meanwhile(db, lambda: db.await_waiting(CALLERS - 1))
            meanwhile(db, lambda: kill_backend(db, killed[0]))
            session.execute(sa.text("SELECT 1"))
        return {"id": number}

    answers = crowd(CALLERS, lambda _: order.outcome("k"))

    one_run(answers)
    assert len(killed) == 1
    assert db.effects() == ["k"]


def test_what_an_application_reads_as_a_transaction_begins_hides_no_winner(server_db: Database) -> None:
    db = server_db
    with db.other_engine() as engine:

        @db.table(engine).transactional("order", key="key", wait=WAIT, share_scope=True)
        def order(session: Any, key: str) -> str:
            raise AssertionError("it was done")

        begun: list[int] = []

        def read(connection: sa.Connection) -> None:
            begun.append(connection.exec_driver_sql("SELECT count(*) FROM idemtable").scalar_one())

        sa.event.listen(getattr(engine, "sync_engine", engine), "begin", read)
        with held(db):
            loser = Beside(lambda: order.outcome("k"))
            db.await_waiting(1)
        assert loser.result().value == "held"
    assert begun[0] == 0, "it has not read before the winner was there"
    assert loser.result().replayed


def test_without_patience_a_duplicate_is_refused_at_once(db: Database) -> None:
    @db.idem.transactional("order", key="key", share_scope=True, wait=timedelta(0))
    def order(session: Any, key: str) -> str:
        effect(session, "never")
        return "ran"

    with held(db) as first:
        with pytest.raises(InProgressError) as caught:
            order("k")
        assert not first.over
    assert caught.value.retry_after > 0
    assert caught.value.http_status == 409
    assert order.outcome("k").value == "held"
    assert db.effects() == ["k"]


def test_a_session_whose_join_was_refused_at_once_stays_usable(db: Database) -> None:
    @db.idem.transactional("order", key="key", share_scope=True, wait=timedelta(0))
    def order(session: Any, key: str) -> str:
        effect(session, "never")
        return "ran"

    with db.session() as mine:
        with held(db):
            if db.kind == "sqlite":  # one writer at a time: before the other is done, it can only have read
                assert mine.run(lambda session: session.execute(sa.text("SELECT count(*) FROM effect")).scalar()) == 0
            else:
                mine.run(lambda session: effect(session, "mine"))
            with pytest.raises(InProgressError):
                order.join(mine.session, "k")
            assert mine.run(lambda session: session.execute(sa.text("SELECT 1")).scalar()) == 1
        if db.kind == "sqlite":
            mine.rollback()
            mine.run(lambda session: effect(session, "mine"))
        mine.commit()

    assert sorted(db.effects()) == ["k", "mine"]


def test_a_bounded_wait_ends_in_progress_and_not_before(db: Database) -> None:
    wait = timedelta(seconds=1 if db.kind in INNODB else 0.3)  # InnoDB counts whole seconds

    @db.idem.transactional("order", key="key", share_scope=True, wait=wait)
    def order(session: Any, key: str) -> str:
        effect(session, "never")
        return "ran"

    with held(db) as first:
        began = monotonic()
        with pytest.raises(InProgressError) as caught:
            order("k")
        took = monotonic() - began
        assert not first.over
    assert took >= wait.total_seconds() * 0.95  # clocks differ by a tick
    assert caught.value.retry_after > 0
    assert db.effects() == ["k"]


def test_a_duplicate_enters_the_function_only_if_the_first_one_is_gone(db: Database) -> None:
    inside: list[str] = []
    overlaps: list[list[str]] = []
    lock = threading.Lock()

    @db.idem.transactional("order", key="key", wait=WAIT)
    def order(session: Any, key: str, who: str) -> str:
        with lock:
            inside.append(who)
            overlaps.append(list(inside))
        effect(session, key)
        meanwhile(db, lambda: watch.await_waiting(1) if len(overlaps) == 1 else None)
        if db.kind == "sqlite":
            assert is_locked(db)
        with lock:
            inside.remove(who)
        if len(overlaps) == 1:
            raise Declined
        return "ran"

    with watching(db) as watch:
        answers = crowd(2, lambda number: order("k", "same"))

    assert overlaps == [["same"], ["same"]]
    assert sorted(map(repr, answers)) == ["'ran'", "Declined()"]
    assert db.effects() == ["k"]


def test_of_many_callers_exactly_one_takes_an_expired_key_over(db: Database) -> None:
    callers = 16
    runs: list[int] = []

    @db.idem.transactional("order", key="key", wait=WAIT)
    def order(session: Any, key: str) -> int:
        runs.append(len(runs))
        effect(session, key)
        if len(runs) == 2:
            meanwhile(db, lambda: watch.await_waiting(callers - 1))
        return len(runs)

    with watching(db) as watch:
        assert order("k") == 1
        db.expire()
        answers = crowd(callers, lambda _: order.outcome("k"))

    assert one_run(answers) == 2
    assert db.effects() == ["k", "k"]
    assert db.idem.get("order", "k").status is Status.COMPLETED


def test_a_purge_leaves_a_key_alone_that_is_being_taken_over(server_db: Database) -> None:
    db = server_db
    order = db.idem.transactional("order", key="key", share_scope=True)(_ordinary)
    order("k")
    order("other")
    db.expire()
    with held(db) as running:
        report = db.idem.purge()
        assert not running.over
    assert report.deleted == 1, "the other one only"
    assert order("k") == "held"
    assert db.effects() == ["k", "other", "k"]


def _ordinary(session: Any, key: str) -> str:
    effect(session, key)
    return "ran"


def test_a_key_purged_between_look_and_take_over_runs_once(server_db: Database) -> None:
    db = server_db
    purged: list[int] = []

    def purge(moment: Moment) -> None:
        if moment.step is Step.FOUND and not purged:
            purged.append(db.execute("DELETE FROM idemtable WHERE expires_at <= created_at"))

    order = db.idem.transactional("order", key="key", share_scope=True)(_ordinary)
    order("k")
    db.expire()
    with steps.listening(purge):
        first = order.outcome("k")

    assert (purged, first.replayed, first.attempts) == ([1], False, 1)
    assert one_run([first, *crowd(4, lambda _: order.outcome("k"))]) == "ran"
    assert db.effects() == ["k", "k"]


def test_forgetting_a_running_key_breaks_nothing(db: Database) -> None:
    with watching(db) as watch:
        with held(db) as first:
            forget = Beside(lambda: db.idem.forget("order", "k"))
            until(lambda: forget.over or watch.waiting() >= 1, "forget neither waits nor ends")
            assert not first.over
        forgotten = forget.result()

    # PostgreSQL cannot see what is not committed and finds nothing to forget; the others wait for it and forget it.
    assert forgotten is (db.kind != "postgresql")
    assert len(db.rows()) == (0 if forgotten else 1)
    assert db.effects() == ["k"]


def test_callers_of_different_keys_do_not_wait_for_each_other(server_db: Database) -> None:
    db = server_db
    inside = threading.Barrier(6, timeout=30)

    @db.idem.transactional("order", key="key", wait=timedelta(0))
    def order(session: Any, key: str) -> str:
        effect(session, key)
        meanwhile(db, inside.wait)  # comes back only if all are inside at once
        return key

    answers = crowd(6, lambda number: order(f"k{number}"))

    assert answers == [f"k{number}" for number in range(6)]
    assert sorted(db.effects()) == answers
