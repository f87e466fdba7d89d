"""E1: many callers of one key at the same moment, again and again."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.reliability.checker import check, check_at_rest, told
from tests.reliability.trial import Trial
from tests.support.crowd import WAIT, crowd
from tests.support.database import effect

WAITED = "keys for which at least half of the callers waited"


def herd(trial: Trial) -> None:
    db, callers = trial.db, trial.size(8, 16)
    trial.needs(WAITED, 3, 290)
    first = threading.Semaphore(0)

    @db.table().transactional("herd", key="key", wait=WAIT)
    def order(session: Any, key: str) -> dict[str, Any]:
        number = effect(session, key)
        if first.acquire(blocking=False):
            # Of a mutant nobody waits, and that is what there is to see.
            deadline = time.monotonic() + (20.0 if trial.mutant is None else 1.5)
            while time.monotonic() < deadline:
                if db.waiting() >= callers // 2:
                    trial.hits[WAITED] += 1
                    break
                if trial.mutant is not None and trial.wrong:
                    break
                time.sleep(0.001)
        return {"id": number, "key": key}

    for number in range(trial.size(4, 300)):
        key = f"herd-{trial.seed}-{number}"
        first.release()
        answers = crowd(callers, lambda _, key=key: order.outcome(key))
        first.acquire(blocking=False)
        trial.tried += callers
        check(trial, [told(key, answer) for answer in answers])
        if trial.mutant is not None and len(trial.wrong) >= 20:
            break
        db.sweep()
    check_at_rest(trial)
