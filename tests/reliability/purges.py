"""E11: the purge runs while keys are used, expire and are asked for; it deletes what has expired and nothing else."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

import idemtable
from idemtable import Status
from tests.reliability import worker
from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.trial import Trial
from tests.reliability.wire import answer_of
from tests.reliability.worker import WAIT
from tests.support import PATIENCE
from tests.support.crowd import crowd
from tests.support.database import effect
from tests.support.forked import Forked

DELETED = "expired rows that were deleted"
MEANWHILE = "calls while the purge was running"
RUNS = "purges"
KILLED = "purges killed between two batches or inside one"
LONG_AGO: Final = datetime(2020, 1, 1, tzinfo=UTC)


def purge(trial: Trial) -> None:
    db = trial.db
    old, soon, writers = trial.size(300, 100_000), trial.size(20, 500), trial.size(3, 8)
    trial.needs(DELETED, old, old)
    trial.needs(KILLED, 1, 10)
    trial.needs(MEANWHILE, 10, 500)
    trial.needs(RUNS, 2, 20)
    idem = db.table(ttl=timedelta(days=1))

    @idem.transactional("purge", key="key", wait=WAIT, share_scope=True)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    tolds: list[Told] = []
    _fill(trial, order, old, soon, tolds)
    over, one_by_one = threading.Event(), threading.Event()

    def purges(number: int) -> None:
        for _ in range(trial.size(1, 10) if number == 0 and trial.mutant is None else 0):
            _killed(trial, batch=trial.size(20, 1_000))
        one_by_one.set() if number == 0 else one_by_one.wait(PATIENCE)
        for _ in range(trial.size(20, 200)):
            report = db.table().purge(batch=trial.size(50, 2_000))
            trial.hits[RUNS] += 1
            if report.deleted == 0 and not report.busy and trial.hits[MEANWHILE] >= trial.least[MEANWHILE]:
                break

    def work(number: int) -> None:
        if number < 2:
            try:
                purges(number)
            finally:  # or the others would go on for ever
                one_by_one.set()
                over.set()
            return
        count = 0
        while not over.is_set() or count < 20:
            count += 1
            # New ones, and those that expire in some minutes, again and again.
            key = f"new-{number}-{count}" if count % 2 else f"soon-{count % soon}"
            tolds.append(told(key, answer_of(order.outcome, key)))
            trial.hits[MEANWHILE] += 1

    errors = [answer for answer in crowd(2 + writers, work) if answer is not None]
    trial.holds("I9", not errors, f"{errors[:1]}")
    trial.tried = len(tolds)
    check(trial, tolds)
    left = Counter(str(row.key).split("-")[0] for row in db.rows() if row.status == Status.COMPLETED.code)
    trial.hits[DELETED] = old - left["old"]
    trial.holds("I9", left["old"] == 0, f"{left['old']} rows that have expired are there")
    trial.holds("I9", left["soon"] == soon, f"of {soon} rows that have not expired {left['soon']} are there")
    _expires_meanwhile(trial)
    check_at_rest(trial)


def _killed(trial: Trial, batch: int) -> None:
    """A process that purges is killed at its work; what it has by then deleted stays so, and its lease runs out."""
    url = trial.db.url.render_as_string(hide_password=False)
    victim = Forked(worker.purge, url, trial.db.backend, batch)
    said = ""
    for _ in range(trial.chance.randint(1, 4)):
        said = victim.stdout.readline().strip() or said
    victim.kill()
    said = (victim.stdout.read().split() or [said])[-1]
    trial.hits[KILLED] += said != "over" and victim.code == -signal.SIGKILL
    victim.close()
    trial.db.execute("UPDATE idemtable SET expires_at = created_at WHERE scope = 'idemtable.purge'")


def _fill(trial: Trial, order: Any, old: int, soon: int, tolds: list[Told]) -> None:
    """Rows that expired long ago, and rows that will in some minutes: what a clock that is wrong takes for over."""
    db, rows = trial.db, idemtable.metadata.tables["idemtable"]
    for number in range(soon):
        tolds.append(told(f"soon-{number}", answer_of(order.outcome, f"soon-{number}")))
    order.outcome("old-0")
    with db.admin.begin() as connection:
        dialect = db.table()._settings.dialect
        minutes = "'2 minutes'" if db.kind == "postgresql" else "2 MINUTE"
        connection.execute(
            sa.text(f"UPDATE idemtable SET expires_at = {dialect.now} + INTERVAL {minutes} WHERE scope = 'purge'")
        )
        template = connection.execute(sa.select(rows).where(rows.c.key == "old-0")).mappings().one()
        connection.execute(rows.delete().where(rows.c.key == "old-0"))
        aged = {"created_at": LONG_AGO, "completed_at": LONG_AGO, "expires_at": LONG_AGO}
        made = [{**template, **aged, "key": f"old-{number}", "id": trial.chance.randbytes(16)} for number in range(old)]
        if db.kind == "postgresql":
            made = [{**one, "id": UUID(bytes=one["id"])} for one in made]
        for start in range(0, old, 5_000):
            connection.execute(rows.insert(), made[start : start + 5_000])


def _expires_meanwhile(trial: Trial) -> None:
    """A key expires and is purged: the next call with it is a new one, and says so."""
    db = trial.db

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
