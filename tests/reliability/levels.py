"""E9: engine, isolation level, what was read before, and how the connection was made: what each says of a claim."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from idemtable import InProgressError, RetryTransactionError, SessionNotUsableError
from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.orders import LEVELS
from tests.reliability.trial import Trial
from tests.reliability.wire import answer_of
from tests.support.crowd import WAIT, Beside, until
from tests.support.database import effect

CELLS = "cells of the table"
WAITED = "losers that were seen waiting"
READ = sa.text("SELECT count(*) FROM unique_business")


def matrix(trial: Trial) -> None:
    levels = [*LEVELS] if trial.place.kind == "postgresql" else ["READ UNCOMMITTED", *LEVELS]
    trial.needs(CELLS, 13, 13)
    trial.needs(WAITED, 6, 6)
    for level in levels:
        for looks in (False, True):
            _loser(trial, level, looks)
        _joined(trial, level)
        if trial.mutant is not None and trial.wrong:
            return
    _unusable(trial)
    if trial.place.kind != "postgresql":
        _narrow(trial)
    check_at_rest(trial)


def _loser(trial: Trial, level: str, looks: bool) -> None:
    """A call that loses its claim to one which is under way, and waits for its answer."""
    db = trial.db
    holding: list[Callable[[], Any]] = []

    @db.table().transactional("levels", key="key", wait=WAIT, isolation_level=level, lookaside=looks, share_scope=True)
    def order(session: Any, key: str) -> int:
        made = effect(session, key)
        if holding:
            holding.pop()()
        return made

    key = f"{level} {looks}"
    begun: list[Beside] = []

    def hold() -> None:
        begun.append(Beside(lambda: answer_of(order.outcome, key)))
        try:
            until(lambda: db.waiting() >= 1 or begun[0].over, "the loser does not wait")
        except AssertionError as error:
            trial.broken("I11", f"{key}: {error}")
        trial.hits[WAITED] += not begun[0].over

    holding.append(hold)
    answers = [answer_of(order.outcome, key), *(one.result() for one in begun), answer_of(order.outcome, key)]
    trial.tried += 1
    trial.hits[CELLS] += 1
    check(trial, [told(key, answer) for answer in answers])


def _joined(trial: Trial, level: str) -> None:
    """A caller's transaction that has read before the key was done elsewhere: the answer, or to begin again."""
    db = trial.db
    key = f"joined {level}"
    with db.other_engine(isolation_level=level, pool_size=2) as engine, db.session(engine) as mine:

        @db.table(engine).transactional("levels", key="key", wait=WAIT, share_scope=True)
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        tolds: list[Told] = []
        mine.run(lambda session: session.execute(READ).scalar())
        tolds.append(told(key, answer_of(order.outcome, key)))
        answer = answer_of(order.join_outcome, mine.session, key)
        if isinstance(answer, RetryTransactionError):
            mine.rollback()
            answer = answer_of(order.join_outcome, mine.session, key)
        tolds.append(told(key, answer))
        mine.rollback()
    trial.tried += 1
    trial.hits[CELLS] += 1
    check(trial, tolds)


def _unusable(trial: Trial) -> None:
    """Connections on which nothing would be atomic, or nothing can be written: refused before the function runs."""
    db = trial.db
    runs: list[str] = []

    def order_of(engine: Any) -> Any:
        @db.table(engine).transactional("levels", key="key", wait=WAIT, share_scope=True)
        def order(session: Any, key: str) -> int:
            runs.append(key)
            return effect(session, key)

        return order

    def cell(name: str, answer: Any, *kinds: type[Exception]) -> None:
        trial.tried += 1
        trial.hits[CELLS] += 1
        trial.holds("I11", isinstance(answer, kinds), f"{name}: {answer!r}")
        trial.holds("I1", not runs and not db.effects(name), f"{name}: the function ran")

    with db.other_engine(isolation_level="AUTOCOMMIT") as engine:
        cell("autocommit", answer_of(order_of(engine), "autocommit"), SessionNotUsableError)
    with db.session() as mine:
        begin = "SET TRANSACTION READ ONLY" if db.kind == "postgresql" else "START TRANSACTION READ ONLY"
        mine.run(lambda session: session.execute(sa.text(begin)))
        refused = answer_of(order_of(db.engine).join, mine.session, "read-only")
        cell("read-only", refused, SessionNotUsableError)
        mine.rollback()
    if db.kind == "postgresql":
        with db.session() as mine:
            broken = answer_of(lambda: mine.run(lambda session: session.connection().exec_driver_sql("SELECT 1/0")))
            assert isinstance(broken, sa.exc.DBAPIError)
            refused = answer_of(order_of(db.engine).join, mine.session, "failed")
            cell("failed", refused, SessionNotUsableError, RetryTransactionError)
            mine.rollback()
    with db.session() as mine:  # no patience: at once, and the session can go on
        held = order_of(db.engine)
        mine.run(lambda session: session.execute(READ).scalar())
        held.join(mine.session, "held")
        runs.clear()
        idem = db.table()

        @idem.transactional("levels", key="key", wait=timedelta(0), share_scope=True)
        def impatient(session: Any, key: str) -> int:
            runs.append(key)
            return effect(session, key)

        cell("held", answer_of(impatient, "held"), InProgressError)
        mine.rollback()


def _narrow(trial: Trial) -> None:
    """A column that somebody has made too short: the call is refused before its function runs, and nothing is cut."""
    db = trial.db
    idem = db.table(table="narrow")
    idem.create_all()
    db.execute("ALTER TABLE narrow MODIFY fingerprint VARBINARY(8)")
    runs: list[str] = []

    @idem.transactional("levels", key="key", wait=WAIT, share_scope=True)
    def order(session: Any, key: str, item: str) -> int:
        runs.append(key)
        return effect(session, key)

    try:
        first = answer_of(order.outcome, "narrow", "tea")
        again = answer_of(order.outcome, "narrow", "tea")
        trial.tried += 1
        trial.hits[CELLS] += 1
        trial.holds(
            "I3", isinstance(first, Exception) and isinstance(again, Exception), f"cut short: {first!r}, then {again!r}"
        )
        trial.holds("I1", not runs, "a function ran whose key was cut short")
    finally:
        db.execute("DROP TABLE narrow")
