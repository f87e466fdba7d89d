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

SHOWN = 5
"""So many violations of one kind are told by name; the rest is counted."""


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
    each: bool = True,
) -> None:
    """Find what breaks I1, I2, I3, I4, I8 or I11.

    Args:
        trial: where to put it.
        tolds: what callers were told, in whatever order.
        db: that they have called, if it is not the place's.
        failures: names of exceptions that a caller may be told of: that of the function, say.
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
        if good and not (effects[key] and key in done):
            invariant = "I8" if all(one.replayed for one in good) else "I2"
            trial.broken(invariant, f"{key} was acknowledged: effects {effects[key]}, row {key in done}")
        if each and not good:
            trial.broken("I5", f"{key} has no answer: {errors[key][:1]}")
    for key, said in errors.items():
        for error in said:
            trial.holds("I11", error.split(":")[0] in failures, f"{key}: its caller was told {error}")


def check_at_rest(trial: Trial, db: Database | None = None, engine: Any = None) -> None:
    """Find what breaks I6, when all calls are over."""
    db = db or trial.db
    stuck = [row.key for row in db.rows() if row.status == Status.IN_PROGRESS.code]
    for key in stuck:
        trial.broken("I6", f"{key} is in progress, and nobody is at work")
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
