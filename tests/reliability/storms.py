"""E8: functions that raise, rows locked crosswise, and callers whose own transactions a deadlock takes down."""

from __future__ import annotations

import threading
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from idemtable import RetryTransactionError
from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.trial import Trial
from tests.support.crowd import WAIT, crowd
from tests.support.database import Database, effect

RAISED = "functions that raised"
CLASHES = "deadlocks and conflicts in the function"
JOINED = "deadlocks in a caller's own transaction"
LOCK = sa.text("UPDATE effect SET amount = amount + 1 WHERE id = :id")
LOOK = sa.text("SELECT sum(amount) FROM effect WHERE id IN (:a, :b)")


class Declined(Exception):
    """What a function raises half of the time."""


def made(db: Database, count: int) -> list[int]:
    """Rows to be locked."""
    with Session(db.admin) as session:
        ids = [effect(session, f"row-{number}", 0) for number in range(count)]
        session.commit()
    return ids


def storm(trial: Trial) -> None:
    trial.needs(RAISED, 10, 150)
    trial.needs(CLASHES, 4, 50)
    trial.needs(JOINED, 1, 20)
    keys = trial.size(20, 300)
    _rollbacks(trial, keys)
    if trial.mutant is not None and trial.wrong:
        return
    for level in ("READ COMMITTED", "REPEATABLE READ"):
        _deadlocks(trial, trial.size(6, 100), level)
    for number in range(trial.size(2, 30)):
        _joined(trial, number)
    check_at_rest(trial)


def _rollbacks(trial: Trial, keys: int) -> None:
    """Every key is asked for until it has an answer."""
    db, names = trial.db, iter(range(keys * 4))
    odds = [trial.chance.random() < 0.5 for _ in range(keys * 40)]
    turn = iter(odds)

    @db.table(attempts=50).transactional("storm", key="key", wait=WAIT)
    def order(session: Any, key: str) -> int:
        made = effect(session, key)
        if next(turn, False):
            trial.hits[RAISED] += 1
            raise Declined
        return made

    tolds: list[Told] = []

    def work(_: int) -> None:
        for number in names:
            key = f"storm-{number // 4}"  # four callers of each
            for _ in range(100):
                try:
                    tolds.append(told(key, order.outcome(key)))
                    break
                except Declined:
                    continue
                except Exception as error:
                    tolds.append(told(key, error))
                    break

    errors = [answer for answer in crowd(trial.size(8, 16), work) if answer is not None]
    trial.tried += len(tolds)
    trial.holds("I11", not errors, f"{errors[:1]}")
    check(trial, tolds)
    db.sweep()


def _deadlocks(trial: Trial, rounds: int, level: str) -> None:
    """Two calls that lock two rows: crosswise, or where levels see conflicts in one order, after both have read them."""
    db = trial.db
    ids = made(db, 2)
    tolds: list[Told] = []
    pairs: dict[str, threading.Barrier] = {}
    mutex = threading.Lock()

    @db.table(attempts=50).transactional(
        f"deadlock {level}", key="key", wait=WAIT, isolation_level=level, remember=(Exception,)
    )
    def order(session: Any, key: str) -> int:
        effect(session, key)
        first, second = ids if key.endswith("a") or level == "REPEATABLE READ" else ids[::-1]
        together = pairs.pop(key, None)
        try:
            session.execute(LOOK, {"a": first, "b": second})
            if level == "REPEATABLE READ" and together is not None:
                together.wait(20)
            session.execute(LOCK, {"id": first})
            if level == "READ COMMITTED" and together is not None:
                together.wait(20)
            session.execute(LOCK, {"id": second})
        except DBAPIError:
            with mutex:
                trial.hits[CLASHES] += 1
            raise
        return len(key)

    for number in range(rounds):
        barrier = threading.Barrier(2)
        names = [f"{level[:6]}-{number}-{letter}" for letter in "ab"]
        pairs.update((name, barrier) for name in names)
        answers = crowd(2, lambda actor, names=names: order.outcome(names[actor]))
        trial.tried += 2
        tolds += [told(name, answer) for name, answer in zip(names, answers, strict=True)]
        for name in names:  # whoever comes later gets what was answered, and a row that says so
            try:
                tolds.append(told(name, order.outcome(name)))
            except Exception as error:
                tolds.append(told(name, error))
        if trial.mutant is not None and any(one.error for one in tolds):
            break
    check(trial, tolds)
    for id, amount in zip(ids, _amounts(db, ids), strict=True):
        done = len({one.key for one in tolds if not one.error})
        trial.holds("I1", amount == done, f"row {id} was changed {amount} times by {done} calls")
    db.sweep()


def _amounts(db: Database, ids: list[int]) -> list[int]:
    with db.admin.connect() as connection:
        return [
            int(connection.execute(sa.text("SELECT amount FROM effect WHERE id = :id"), {"id": id}).scalar_one())
            for id in ids
        ]


def _joined(trial: Trial, number: int) -> None:
    """A caller writes, joins a call that a deadlock takes down, writes again and commits: all of it, or none."""
    db = trial.db
    a, b = made(db, 2)
    hit: list[int] = []
    ready, asked = threading.Event(), threading.Event()

    @db.table().transactional("joined", key="key", wait=WAIT, share_scope=True)
    def order(session: Any, key: str) -> str:
        effect(session, key)
        if not hit:
            hit.append(1)
            session.execute(LOCK, {"id": a})
            ready.set()
            db.await_waiting(1)
            session.execute(LOCK, {"id": b})
        return key

    def rival(_: int) -> None:
        with db.admin.connect() as connection:
            if db.kind == "postgresql":
                connection.exec_driver_sql("SET LOCAL deadlock_timeout = '1h'")
            else:
                for count in range(50):
                    connection.execute(sa.text("INSERT INTO unique_business VALUES (:n)"), {"n": f"{number}-{count}"})
            connection.execute(LOCK, {"id": b})
            asked.set()
            assert ready.wait(30)
            connection.execute(LOCK, {"id": a})
            connection.rollback()

    key = f"joined-{number}"

    def caller(_: int) -> None:
        assert asked.wait(30)
        for _ in range(5):
            with db.session() as mine:
                mine.run(lambda session: effect(session, f"{key} first half"))
                try:
                    order.join(mine.session, key)
                except RetryTransactionError:
                    trial.hits[JOINED] += 1
                    mine.rollback()
                    continue
                mine.run(lambda session: effect(session, f"{key} second half"))
                mine.commit()
                return

    answers = crowd(2, lambda actor: (rival, caller)[actor](actor))
    trial.tried += 1
    for answer in answers:
        trial.holds("I11", answer is None, f"{key}: {answer!r}")
    there = [len(db.effects(name)) for name in (f"{key} first half", key, f"{key} second half")]
    trial.holds("I1", there == [1, 1, 1], f"{key}: first half, call, second half were committed {there} times")
