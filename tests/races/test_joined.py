"""Races of transactions that belong to the caller: nothing is lost, and what cannot be answered asks for a new one."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import RetryTransactionError
from tests.support import PATIENCE
from tests.support.crowd import WAIT, Beside, crowd, watching
from tests.support.database import INNODB, Database, effect


def _order(db: Database, **options: Any) -> Any:
    @db.idem.transactional("order", key="key", wait=WAIT, **options)
    def order(session: Any, key: str) -> str:
        effect(session, key)
        return key

    return order


def test_two_keys_in_opposite_order_deadlock_and_nothing_is_lost(server_db: Database) -> None:
    db = server_db
    order = _order(db)
    both_hold_one = threading.Barrier(2, timeout=PATIENCE)
    retries = []

    def both(keys: tuple[str, str], name: str) -> list[str]:
        first_time = True
        while True:
            with db.session() as mine:
                try:
                    mine.run(lambda session: effect(session, name))
                    answers = [order.join(mine.session, keys[0])]
                    if first_time:
                        first_time = False
                        both_hold_one.wait()
                    answers.append(order.join(mine.session, keys[1]))
                    mine.commit()
                    return answers
                except RetryTransactionError:
                    retries.append(name)

    answers = crowd(2, lambda number: both((("a", "b"), ("b", "a"))[number], f"caller {number}"))

    assert answers == [["a", "b"], ["b", "a"]]
    assert len(retries) >= 1, "there was no deadlock"
    assert sorted(db.effects()) == ["a", "b", "caller 0", "caller 1"]


def test_a_joined_duplicate_waits_for_the_callers_commit_and_not_only_for_the_function(db: Database) -> None:
    order = _order(db)
    with watching(db) as watch, db.session() as mine:
        assert order.join(mine.session, "k") == "k"
        other = Beside(lambda: order.outcome("k"))
        watch.await_waiting(1)
        assert not other.over
        mine.commit()
        assert other.result().replayed
    assert db.effects() == ["k"]


def test_when_a_joined_caller_rolls_back_the_waiter_runs(db: Database) -> None:
    order = _order(db)
    with watching(db) as watch, db.session() as mine:
        order.join(mine.session, "k")
        other = Beside(lambda: order.outcome("k"))
        watch.await_waiting(1)
        mine.rollback()
        assert not other.result().replayed
    assert db.effects() == ["k"]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_older_than_the_winner_asks_for_a_new_transaction_which_replays(
    server_db: Database, level: str
) -> None:
    db = server_db
    order = _order(db)
    with db.other_engine(isolation_level=level) as engine, db.session(engine) as mine:
        # On another table than the effects: InnoDB reads with locks when SERIALIZABLE, and the winner must get through.
        mine.run(lambda session: session.execute(sa.text("SELECT count(*) FROM unique_business")).scalar())
        assert order("k") == "k"
        if db.kind in INNODB and level == "SERIALIZABLE" and not db.insists_on_its_snapshot():
            # Reads with locks and without a snapshot: it sees the winner.
            assert order.join(mine.session, "k") == "k"
            mine.commit()
        else:
            with pytest.raises(RetryTransactionError):
                order.join(mine.session, "k")
        mine.rollback()
        assert order.join(mine.session, "k") == "k"
        mine.commit()
    assert db.effects() == ["k"]


def test_at_read_committed_a_joined_duplicate_replays_in_place(server_db: Database) -> None:
    db = server_db
    order = _order(db)
    with db.other_engine(isolation_level="READ COMMITTED") as engine, db.session(engine) as mine:
        mine.run(lambda session: effect(session, "mine"))
        assert order("k") == "k"
        assert order.join(mine.session, "k") == "k"
        mine.commit()
    assert sorted(db.effects()) == ["k", "mine"]


def test_a_session_that_read_before_the_winner_replays_or_is_asked_to_begin_again(db: Database) -> None:
    """On every engine at its own isolation level: a replay or the question, never a second run."""
    order = _order(db)
    with db.session() as mine:
        mine.run(lambda session: session.execute(sa.text("SELECT count(*) FROM effect")).scalar())
        assert order("k") == "k"
        try:
            assert order.join(mine.session, "k") == "k"
            asked = False
        except RetryTransactionError:
            asked = True
        mine.rollback()
        assert order.join(mine.session, "k") == "k"
        mine.commit()
    assert asked is (db.kind != "postgresql")
    assert db.effects() == ["k"]


def lock_timeouts(db: Database) -> tuple[str, str, str, str, list[str]]:
    """What PostgreSQL's lock_timeout is: by default, inside a winner, after `SET LOCAL` outside and inside a joined one."""

    def show(session: Any) -> str:
        return str(session.execute(sa.text("SHOW lock_timeout")).scalar())

    seen: list[str] = []

    @db.idem.transactional("order", key="key", wait=WAIT)
    def order(session: Any, key: str) -> str:
        seen.append(show(session))
        return key

    with db.session() as mine:
        default = mine.run(show)
    order("own")
    with db.session() as mine:
        mine.run(lambda session: session.execute(sa.text("SET LOCAL lock_timeout = '1234ms'")))
        order.join(mine.session, "joined")
        after_run = mine.run(show)
        order.join(mine.session, "joined")
        after_replay = mine.run(show)
        mine.commit()
    with db.session() as mine:
        after = mine.run(show)
    return default, after_run, after_replay, after, seen


def test_the_wait_leaves_no_trace_in_postgresqls_lock_timeout(server_db: Database) -> None:
    db = server_db
    if db.kind != "postgresql":
        before = db.execute("SELECT @@innodb_lock_wait_timeout")
        inside: list[Any] = []

        @db.idem.transactional("order", key="key", wait=WAIT)
        def order(session: Any, key: str) -> str:
            inside.extend(session.execute(sa.text("SELECT @@innodb_lock_wait_timeout")).fetchall())
            return key

        assert order("k") == order("k") == "k"
        assert inside == before
        return
    default, after_run, after_replay, after, seen = lock_timeouts(db)
    assert seen == [default, "1234ms"]
    assert (after_run, after_replay, after) == ("1234ms", "1234ms", default)


def test_many_joined_callers_of_one_key_leave_one_effect(db: Database) -> None:
    order = _order(db)

    def one(number: int) -> str:
        while True:
            with db.session() as mine:
                try:
                    answer = order.join(mine.session, "k")
                    mine.run(lambda session: effect(session, f"caller {number}"))
                    mine.commit()
                    return str(answer)
                except RetryTransactionError:
                    continue

    answers = crowd(6, one)

    assert answers == ["k"] * 6
    assert sorted(db.effects()) == sorted(["k", *(f"caller {number}" for number in range(6))])


def test_a_block_waits_like_a_call_and_replays(db: Database) -> None:
    def enter() -> tuple[bool, Any]:
        with db.idem.transaction("order", "k", wait=WAIT) as claim:
            return claim.replayed, claim.result

    with watching(db) as watch:
        # One after the other, and not two at once: where a row of the same key was deleted a moment ago MariaDB lets
        # both lock its remains, and one of them is told to begin again before anybody waits.
        with db.idem.transaction("order", "k", wait=WAIT) as first:
            second = Beside(enter)
            db.on(first.session, lambda session: effect(session, "k"))
            watch.await_waiting(1)
            first.result = {"paid": True}
        assert second.result() == (True, {"paid": True})

    assert (first.replayed, first.result) == (False, {"paid": True})
    assert db.effects() == ["k"]
