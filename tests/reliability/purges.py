"""E11: the purge runs while keys are used, expire and are asked for; it deletes what has expired and nothing else."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import closing
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

import idemtable
from idemtable import Status
from tests.reliability import worker
from tests.reliability.calls import BACK, MEANWHILE, Calls
from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.expired import LONG_AGO, put_expired
from tests.reliability.trial import Trial
from tests.reliability.waits import TELLING, Waits
from tests.reliability.wire import answer_of
from tests.reliability.worker import WAIT
from tests.support.crowd import crowd, until
from tests.support.database import Database, Effect, effect
from tests.support.forked import Forked

DELETED = "expired rows that were deleted"
RUNS = "purges"
KILLED = "purges killed between two batches or inside one"


def purge(trial: Trial) -> None:
    if not trial.whole or trial.mutant is not None:
        _under_fire(trial, trial.db)
        return
    # A server of its own: others' leavings would be measured too, and it must say who waits for whom.
    with trial.place.own(*TELLING[trial.place.kind]) as (_, db):
        db.engine.dispose()
        with Waits(db, db.engine) as waits:
            _under_fire(trial, db, waits)


def _under_fire(trial: Trial, db: Database, waits: Waits | None = None) -> None:
    old, soon, back, writers = trial.size(300, 100_000), trial.size(20, 500), trial.size(5, 250), trial.size(3, 8)
    trial.needs(DELETED, old, old)
    trial.needs(KILLED, 1, 10)
    trial.needs(MEANWHILE, 10, 500)
    trial.needs(RUNS, 2, 20)
    trial.needs(BACK, 15, 30)
    idem = db.table(ttl=timedelta(days=1))

    @idem.transactional("purge", key="key", wait=WAIT, share_scope=True)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    calls = Calls(trial, order, soon, back, timed=waits is not None)
    tolds = calls.tolds
    _fill(trial, db, order, old, soon, calls.expired(writers), tolds)
    if waits is not None:
        errors = [answer for answer in crowd(writers, calls.before) if answer is not None]
        assert not errors, errors[:1]
    _expire_soon(db)
    over, one_by_one = threading.Event(), threading.Event()
    finished: list[int] = []

    def purges(number: int, engine: Any) -> None:
        for _ in range(trial.size(1, 10) if number == 0 and trial.mutant is None else 0):
            _killed(trial, db, db.table(engine), batch=trial.size(20, 1_000))
        one_by_one.set() if number == 0 else one_by_one.wait()  # or it takes the place of those that are to be killed
        for _ in range(trial.size(20, 200)):
            report = calls.purged(lambda: db.table(engine).purge(batch=trial.size(50, 2_000)))
            trial.hits[RUNS] += 1
            if report.deleted == 0 and not report.busy and trial.hits[MEANWHILE] >= trial.least[MEANWHILE]:
                break

    with db.other_engine() as engine:  # whose connections are nobody's who calls

        def work(number: int) -> None:
            if number < 2:
                try:
                    purges(number, engine)
                finally:  # or the others would go on for ever
                    one_by_one.set()
                    finished.append(number)
                    if len(finished) == 2:  # the one that always finds the other one busy is there long before it
                        over.set()
                return
            calls.under(number - 2, over)

        errors = [answer for answer in crowd(2 + writers, work) if answer is not None]
    trial.holds("I9", not errors, f"{errors[:1]}")
    trial.tried = len(tolds)
    check(trial, tolds, db)
    left = Counter(str(row.key).split("-")[0] for row in db.rows() if row.status == Status.COMPLETED.code)
    asked = len({one.key for one in tolds if one.key.startswith("back")})
    trial.hits[DELETED] = old - left["old"]
    trial.holds("I9", left["old"] == 0, f"{left['old']} rows that have expired are there")
    trial.holds("I9", left["soon"] == soon, f"of {soon} rows that have not expired {left['soon']} are there")
    trial.holds(
        "I9", left["back"] == asked, f"of {asked} expired keys that were asked for again {left['back']} are there"
    )
    if waits is not None:
        calls.measured(waits)
    _expires_meanwhile(trial, db)
    check_at_rest(trial, db)


def _killed(trial: Trial, db: Database, table: Any, batch: int) -> None:
    """A process that purges is killed at its work; what it has by then deleted stays so, and its lease runs out."""
    url = db.url.render_as_string(hide_password=False)
    batches, seconds = trial.chance.randint(1, 4), trial.chance.uniform(0, trial.size(0.005, 0.02))
    with closing(Forked(worker.purge, url, db.backend, batch, batches, seconds)) as victim:
        code = victim.wait()
        trial.hits[KILLED] += code == -signal.SIGKILL and "over" not in victim.stdout.read()

    def is_free() -> bool:
        db.execute("UPDATE idemtable SET expires_at = created_at WHERE scope = 'idemtable.purge'")
        return not table.purge(limit=1).busy

    # Again, since what the dead one had sent may still be done, and renew its lease.
    until(is_free, "the purge stays busy")


def _fill(trial: Trial, db: Database, order: Any, old: int, soon: int, back: list[str], tolds: list[Told]) -> None:
    """Rows that expired long ago, of keys that nobody asks for again and of such that are; and rows that will expire."""
    rows = idemtable.metadata.tables["idemtable"]
    are_back = rows.c.key.like("back-%")
    for number in range(soon):
        tolds.append(told(f"soon-{number}", answer_of(order.outcome, f"soon-{number}")))
    for key in ("old-0", *back):
        order.outcome(key)
    with db.admin.begin() as connection:
        connection.execute(sa.delete(Effect).where(Effect.name.like("back-%")))  # their next one is to be the only one
        template = connection.execute(sa.select(rows).where(rows.c.key == "old-0")).mappings().one()
        connection.execute(rows.delete().where(rows.c.key == "old-0"))
        # Half of them expired before those that come back, half after, and so they lie in the table: a purge meets these in
        # the middle of its way.
        first, last = LONG_AGO - timedelta(days=1), LONG_AGO + timedelta(days=1)
        aged = {"created_at": LONG_AGO, "completed_at": LONG_AGO, "expires_at": LONG_AGO}
        backs = [{**row, **aged} for row in connection.execute(sa.select(rows).where(are_back)).mappings()]
        connection.execute(rows.delete().where(are_back))
        put_expired(connection, template, range(old // 2), trial.chance, expired=first)
        connection.execute(rows.insert(), backs)
        put_expired(connection, template, range(old // 2, old), trial.chance, expired=last)


def _expire_soon(db: Database) -> None:
    """Let some rows expire in four minutes: what a clock that is wrong takes for over."""
    rows = idemtable.metadata.tables["idemtable"]
    minutes = "'4 minutes'" if db.kind == "postgresql" else "4 MINUTE"
    then = sa.text(f"{db.table()._settings.dialect.now} + INTERVAL {minutes}")
    with db.admin.begin() as connection:
        connection.execute(rows.update().where(rows.c.key.like("soon-%")).values(expires_at=then))


def _expires_meanwhile(trial: Trial, db: Database) -> None:
    """A key expires and is purged: the next call with it is a new one, and says so."""

    @db.table().transactional("purge", key="key", wait=WAIT, share_scope=True)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    db.sweep()
    first = order.outcome("again")
    db.expire()
    report = db.table().purge()
    second = order.outcome("again")
    trial.tried += 2
    trial.holds("I9", report.deleted == 1, f"{report.deleted} rows were deleted")
    trial.holds("I9", not second.replayed and second.value != first.value, "a purged key was replayed")
    trial.holds("I11", order.outcome("again").value == second.value, "it was not kept")
