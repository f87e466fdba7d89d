"""Batches side by side, and beside single calls: every key is new once, nobody deadlocks, and no setting is left behind."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import Flag, InProgressError, RetryTransactionError
from idemtable.dialects.batches import postgresql
from idemtable.keys import digest
from tests.support import PATIENCE
from tests.support.backends import BACKENDS, db_of
from tests.support.crowd import WAIT, Beside, backend_id, crowd, held, kill_backend, watching
from tests.support.database import Database, Held, effect
from tests.support.timeouts import TIMEOUTS

New, Seen = Flag.New, Flag.Seen
SCOPE = "batch"
KEYS = sorted((f"key {number}" for number in range(5)), key=lambda key: digest(None, SCOPE, key))
"""In the order in which a batch takes them."""


def claim(db: Database, mine: Held, *keys: str, **options: Any) -> list[Flag]:
    return list(db.idem.claim_many(mine.session, SCOPE, keys, **{"wait": WAIT, **options}))


def claimed(db: Database, *keys: str, **options: Any) -> dict[str, Flag]:
    """Claim keys in a transaction of their own and commit; give the flag of each."""
    with db.session() as mine:
        flags = claim(db, mine, *keys, **options)
        mine.commit()
    return dict(zip(keys, flags, strict=True))


def until_done(db: Database, *keys: str) -> dict[str, Flag]:
    """The same, begun again as often as it is asked for."""
    while True:
        try:
            return claimed(db, *keys)
        except RetryTransactionError:
            continue


def new_once(answers: list[Any], keys: list[str]) -> None:
    """Check that of all who claimed these keys each was new to exactly one."""
    errors = [answer for answer in answers if not isinstance(answer, dict)]
    assert not errors, errors
    for key in keys:
        assert sorted(answer[key].value for answer in answers if key in answer).count("new") == 1, key


# --- two batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_batch_waits_for_one_with_the_same_keys_in_another_order(db: Database, ends: str) -> None:
    with watching(db) as watch, db.session() as mine:
        assert claim(db, mine, *KEYS) == [New] * 5
        other = Beside(lambda: claimed(db, *KEYS[::-1], "own"))
        watch.await_waiting(1)
        assert not other.over
        getattr(mine, ends)()
        expected = Seen if ends == "commit" else New
        assert other.result() == {**dict.fromkeys(KEYS[::-1], expected), "own": New}
    assert len(db.rows()) == 6


def check_that_two_batches_never_deadlock(db: Database) -> None:
    """Both are stopped in the middle of their statements, with locks in their hands if they have taken any."""
    with db.session() as holder:
        assert claim(db, holder, KEYS[2]) == [New]
        others = [Beside(lambda order=order: claimed(db, *order)) for order in (KEYS, KEYS[::-1])]
        db.await_waiting(2)
        holder.commit()
        answers: list[Any] = []
        for other in others:
            try:
                answers.append(other.result())
            except RetryTransactionError as error:
                answers.append(error)
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    new_once([*answers, {KEYS[2]: New}], KEYS)


def test_two_batches_with_the_same_keys_in_opposite_order_never_deadlock(server_db: Database) -> None:
    check_that_two_batches_never_deadlock(server_db)


@pytest.mark.parametrize("backend", ["postgresql18", "mariadb", "mysql"])
def test_the_check_finds_batches_that_take_their_keys_as_they_come(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idemtable.claim.many.sorted", list, raising=False)
    with pytest.raises(AssertionError, match="RetryTransactionError"):
        check_that_two_batches_never_deadlock(db_of(backend))


def test_two_transactions_that_claim_in_opposite_order_deadlock_and_nothing_is_lost(server_db: Database) -> None:
    db = server_db
    both_hold_one = threading.Barrier(2, timeout=PATIENCE)
    asked = []

    def both(keys: list[str]) -> dict[str, Flag]:
        first_time = True
        while True:
            with db.session() as mine:
                try:
                    flags = claim(db, mine, keys[0])
                    if first_time:
                        first_time = False
                        both_hold_one.wait()
                    flags += claim(db, mine, keys[1])
                    mine.commit()
                    return dict(zip(keys, flags, strict=True))
                except RetryTransactionError:
                    asked.append(keys)

    answers = crowd(2, lambda number: both([["a", "b"], ["b", "a"]][number]))
    new_once(answers, ["a", "b"])
    assert asked, "there was no deadlock"


def test_of_many_batches_with_keys_in_common_each_key_is_new_to_one(db: Database) -> None:
    keys = [f"key {number}" for number in range(40)]

    def one(number: int) -> dict[str, Flag]:
        own = random.Random(number)
        return until_done(db, *own.sample(keys, 30), f"own {number}")

    answers = crowd(5, one)
    new_once(answers, [key for key in keys if any(key in answer for answer in answers)])
    assert len(db.rows()) == len({key for answer in answers for key in answer})


def test_an_expired_record_is_new_to_one_of_many_batches(db: Database) -> None:
    keys = [f"key {number}" for number in range(20)]
    claimed(db, *keys)
    db.expire()
    answers = crowd(4, lambda number: until_done(db, *(keys if number % 2 else keys[::-1])))
    new_once(answers, keys)
    assert len(db.rows()) == 20


def test_keys_that_are_seen_are_not_waited_for(server_db: Database) -> None:
    db = server_db
    claimed(db, *KEYS)
    with db.session() as mine, db.session() as other:
        assert claim(db, mine, *KEYS) == [Seen] * 5
        assert claim(db, other, *KEYS, wait=timedelta(0)) == [Seen] * 5
        with db.idem.transaction(SCOPE, KEYS[0], wait=timedelta(seconds=1)) as block:
            assert block.replayed


def test_a_key_that_a_batch_has_seen_is_forgotten_at_once_on_postgresql_and_after_its_commit_elsewhere(
    server_db: Database,
) -> None:
    db = server_db
    claimed(db, *KEYS)
    with db.session() as mine:
        assert claim(db, mine, *KEYS) == [Seen] * 5
        other = Beside(lambda: db.idem.forget(SCOPE, KEYS[0]))
        if db.kind != "postgresql":
            db.await_waiting(1)
            assert not other.over
            mine.commit()
        assert other.result() is True
    assert len(db.rows()) == 4


def test_a_batch_locks_no_row_but_its_own_keys(server_db: Database) -> None:
    """A plan that reads the whole of a small table with locks would."""
    db = server_db
    claimed(db, *KEYS)
    db.expire()
    claimed(db, *KEYS[:2])
    with db.other_engine(isolation_level="READ COMMITTED") as engine, db.session(engine) as mine:
        assert claim(db, mine, *KEYS[1:3]) == [Seen, New]
        for key in (KEYS[0], KEYS[3], KEYS[4]):
            assert db.idem.forget(SCOPE, key) is True
        mine.commit()
    assert len(db.rows()) == 2


# --- beside single calls ----------------------------------------------------------------------------------------------


def test_a_batch_waits_for_a_call_that_runs_and_has_seen_it_then(db: Database) -> None:
    with watching(db) as watch:
        with held(db, key=KEYS[2], scope=SCOPE):
            other = Beside(lambda: claimed(db, *KEYS))
            watch.await_waiting(1)
            assert not other.over
        assert other.result() == {**dict.fromkeys(KEYS, New), KEYS[2]: Seen}


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_call_waits_for_the_transaction_of_a_batch(db: Database, ends: str) -> None:
    @db.idem.transactional(SCOPE, key="key", wait=WAIT, share_scope=True)
    def call(session: Any, key: str) -> None:
        effect(session, key)

    with watching(db) as watch, db.session() as mine:
        claim(db, mine, *KEYS)
        other = Beside(lambda: call.outcome(KEYS[3]))
        watch.await_waiting(1)
        assert not other.over
        getattr(mine, ends)()
        assert other.result().replayed is (ends == "commit")
    assert db.effects() == ([] if ends == "commit" else [KEYS[3]])


# --- what the caller's transaction has -------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_with_a_snapshot_older_than_the_winner_a_key_is_seen_or_the_transaction_begins_again(
    server_db: Database, level: str
) -> None:
    db = server_db
    with db.other_engine(isolation_level=level) as engine, db.session(engine) as mine:
        mine.run(lambda session: session.execute(sa.text("SELECT count(*) FROM unique_business")).scalar())
        claimed(db, *KEYS[1:3])
        if db.kind == "postgresql" or db.insists_on_its_snapshot():
            with pytest.raises(RetryTransactionError):
                claim(db, mine, *KEYS)
            mine.rollback()
        assert claim(db, mine, *KEYS) == [New, Seen, Seen, New, New]
        mine.commit()


def test_a_lost_connection_asks_for_a_new_transaction(server_db: Database) -> None:
    db = server_db
    with db.session() as mine:
        number = mine.run(lambda session: backend_id(db, session))
        kill_backend(db, number)
        with pytest.raises(RetryTransactionError):
            claim(db, mine, *KEYS)
        mine.rollback()
        assert claim(db, mine, *KEYS) == [New] * 5
        mine.commit()


@pytest.mark.parametrize("db", [name for name in BACKENDS if name.startswith("postgresql")], indirect=True)
@pytest.mark.parametrize("what", ["new", "expired"])
def test_on_postgresql_the_wait_of_a_batch_is_for_all_that_hold_its_keys_together(db: Database, what: str) -> None:
    wait = timedelta(seconds=1)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > :long"
    with ExitStack() as stack:
        holders = [stack.enter_context(db.session()) for _ in KEYS]
        engine = stack.enter_context(db.other_engine())
        mine = stack.enter_context(db.session(engine))

        def take() -> None:
            for holder, key in zip(holders, KEYS, strict=True):
                assert claim(db, holder, key) == [New]

        def take_first(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if "FOR UPDATE OF t" in statement:  # what has expired is about to be taken over
                take()

        if what == "new":
            take()
        else:
            claimed(db, *KEYS)
            db.expire()
            sa.event.listen(getattr(engine, "sync_engine", engine), "before_cursor_execute", take_first)
        other = Beside(lambda: claim(db, mine, *KEYS, wait=wait))
        for holder in holders:
            # Each lets go when it was waited for for more than half of the time: the second one does so too late.
            while not other.over and not db.execute(waits, long=0.6 * wait)[0][0]:
                pass
            if other.over:
                break
            holder.commit()
        with pytest.raises(InProgressError):
            other.result()


def check_that_the_lock_timeout_stays_the_callers(db: Database) -> None:
    """After new keys, after conflicts, after takeovers, and after an error; the transaction can be used on after each."""
    put, show, value = TIMEOUTS[db.kind]

    def shown(session: Any) -> Any:
        return session.execute(sa.text(show)).scalar()

    with db.session() as mine:
        before = mine.run(shown)
    claimed(db, "expired", "old")
    db.expire()
    claimed(db, "a", "b")
    with db.other_engine(poolclass=sa.NullPool) as engine:
        if db.kind == "sqlite":
            db.table(engine)
        with db.session(engine) as mine, db.session() as other:
            mine.run(lambda session: session.execute(sa.text(put)))
            for keys, flags in (
                (["x", "y"], [New, New]),
                (["x", "y"], [Seen, Seen]),
                (["a", "z", "b", "zz"], [Seen, New, Seen, New]),
                (["expired", "a", "old", "v"], [New, Seen, New, New]),
            ):
                assert claim(db, mine, *keys) == flags
                assert mine.run(shown) == value, keys
            if db.kind == "sqlite":  # whoever is busy there is so from the beginning of the transaction
                return
            claim(db, other, "held")
            with pytest.raises(InProgressError):
                claim(db, mine, "w", "held", "ww", wait=timedelta(0))
            assert mine.run(shown) == value
            assert claim(db, mine, "w") == [New], "of a batch that failed nothing is claimed"
            other.rollback()
            mine.commit()
            if db.kind == "postgresql":
                assert mine.run(shown) == before, "it was set for the transaction"


def test_the_lock_timeout_is_after_a_batch_as_it_was_before(db: Database) -> None:
    check_that_the_lock_timeout_stays_the_callers(db)


def test_the_check_finds_a_timeout_that_is_put_back_by_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the claim of one key does it: behind a row that conflicts it stays as it is."""
    db = db_of("postgresql18")
    per_row = postgresql.PostgreSQLBatches.CLAIM.replace(postgresql._AFTER, "NULL").replace(
        "RETURNING id)", f"RETURNING id, {postgresql._AFTER})"
    )
    monkeypatch.setattr(postgresql.PostgreSQLBatches, "CLAIM", per_row)  # of engines from here on
    with pytest.raises(AssertionError, match="7654ms"):
        check_that_the_lock_timeout_stays_the_callers(db)
