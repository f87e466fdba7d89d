"""What callers were told, held against what the database says: once, for every experiment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from idemtable import Status
from tests.reliability.trial import Trial
from tests.support.crowd import until
from tests.support.database import Database


@dataclass(frozen=True)
class Told:
    """What one call of a key was told."""

    key: str
    value: Any = None
    replayed: bool = False
    error: str = ""
    """What it raised instead."""


def told(key: str, answer: Any) -> Told:
    """What `crowd` gives of a call, an outcome or an exception."""
    if isinstance(answer, BaseException):
        return Told(key, error=f"{type(answer).__name__}: {answer}"[:200])
    return Told(key, answer.value, answer.replayed)


def check(
    trial: Trial,
    tolds: Iterable[Told],
    db: Database | None = None,
    *,
    failures: Collection[str] = (),
    lost: str = "I2",
    each: bool = True,
) -> None:
    """Look at I1, I2, I3, I5, I8 and I11.

    Args:
        trial: where to put it.
        tolds: what callers were told, in whatever order.
        db: that they have called, if it is not the place's.
        failures: names of exceptions that a caller may be told of: that of the function, say.
        lost: what is broken where of an acknowledged call neither effect nor row is there: I4 after a crash.
        each: whether every key that was called must have been answered in the end.
    """
    db = db or trial.db
    effects = Counter(db.effects())
    done = {row.key for row in db.rows() if row.status == Status.COMPLETED.code}
    answers: dict[str, list[Told]] = defaultdict(list)
    errors: dict[str, list[str]] = defaultdict(list)
    for one in tolds:
        if one.error:
            errors[one.key].append(one.error)
            answers[one.key] += []
        else:
            answers[one.key].append(one)
    for key, count in effects.items():
        trial.holds("I1", count <= 1, f"{key} has {count} effects")
    for key, good in answers.items():
        values = {repr(one.value) for one in good}
        trial.holds("I3", len(values) <= 1, f"{key} was answered with {sorted(values)}")
        there, replays = (effects[key] > 0, key in done), sum(one.replayed for one in good)
        what = f"{key} was acknowledged: effects {effects[key]}, row {key in done}"
        if replays < len(good):
            trial.holds("I2", there[0] is there[1], what)
            trial.holds(lost, any(there), what)
        if replays:  # where the first answer was lost, that is what is wrong
            trial.holds("I8", all(there) or replays < len(good), what)
        if each:
            trial.holds("I5", bool(good), f"{key} has no answer: {errors[key][:1]}")
        untrue = [error for error in errors[key] if error.split(":")[0] not in failures]
        trial.holds("I11", not untrue, f"{key}: its caller was told {', '.join(untrue)}")


def check_at_rest(trial: Trial, db: Database | None = None, engine: Any = None) -> None:
    """Look at I6, when all calls are over."""
    db = db or trial.db
    stuck = [row.key for row in db.rows() if row.status == Status.IN_PROGRESS.code]
    trial.holds("I6", not stuck, f"{stuck[:5]} are in progress, and nobody is at work")
    engine = db.engine if engine is None else engine
    out = getattr(engine, "sync_engine", engine).pool.checkedout()
    trial.holds("I6", out == 0, f"{out} connections are out of the pool")
    if db.kind == "postgresql":
        idle = (
            "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
        )
        try:
            until(lambda: not db.execute(idle), "transactions are open")
        except AssertionError as error:
            trial.broken("I6", str(error))
