"""E1: many callers of one key at the same moment, again and again: threads, tasks, and threads of several processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.processes import processes
from tests.reliability.trial import Trial
from tests.support.crowd import WAIT, crowd, meanwhile
from tests.support.database import Database, effect

THREADS, TASKS, PROCESSES = (
    f"keys for which at least half of the {callers} waited" for callers in ("threads", "tasks", "processes' threads")
)


def herd(trial: Trial) -> None:
    callers = trial.size(8, 16)
    trial.needs(THREADS, 3, 290)
    _key_after_key(trial, trial.db, trial.size(4, 300), _crowd(trial, trial.db, callers, THREADS))
    if trial.mutant is not None:
        return  # the mistakes are in what all of them share, and the threads have met them
    db = trial.place.async_database
    db.sweep()
    trial.needs(TASKS, 1, 95)
    _key_after_key(trial, db, trial.size(2, 100), _crowd(trial, db, callers, TASKS))
    trial.needs(PROCESSES, 1, 95)
    with processes(trial.db, callers // 4, 4) as group:  # the start of a process is what a small size costs

        def ask(key: str) -> list[Told]:
            return group.ask(key, lambda: _see_them_wait(trial, trial.db, callers, PROCESSES))

        _key_after_key(trial, trial.db, trial.size(2, 100), ask)


def _key_after_key(trial: Trial, db: Database, keys: int, ask: Callable[[str], list[Told]]) -> None:
    for number in range(keys):
        tolds = ask(f"herd-{trial.seed}-{number}")
        trial.tried += len(tolds)
        check(trial, tolds, db)
        if trial.mutant is not None and len(trial.wrong) >= 20:
            break
        db.sweep()
    check_at_rest(trial, db)


def _crowd(trial: Trial, db: Database, callers: int, waited: str) -> Callable[[str], list[Told]]:
    """So many callers in this process: threads, or tasks of one loop if the database is an async one."""
    first = threading.Semaphore(0)

    @db.table().transactional("herd", key="key", wait=WAIT)
    def order(session: Any, key: str) -> dict[str, Any]:
        number = effect(session, key)
        if first.acquire(blocking=False):
            meanwhile(db, lambda: _see_them_wait(trial, db, callers, waited))
        return {"id": number, "key": key}

    def ask(key: str) -> list[Told]:
        first.release()
        answers = crowd(callers, lambda _: order.outcome(key))
        first.acquire(blocking=False)
        return [told(key, answer) for answer in answers]

    return ask


def _see_them_wait(trial: Trial, db: Database, callers: int, waited: str) -> None:
    """Come back when half of the callers wait for the one that is at work, by the database's own view."""
    # Of a mutant nobody waits, and that is what there is to see.
    deadline = time.monotonic() + (20.0 if trial.mutant is None else 1.5)
    while time.monotonic() < deadline:
        if db.waiting() >= callers // 2:
            trial.hits[waited] += 1
            break
        if trial.mutant is not None and trial.wrong:
            break
        time.sleep(0.001)
