"""The calls of E11, and how long they take before any purge runs and while one deletes."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from idemtable import PurgeReport
from tests.reliability.checker import Told, told
from tests.reliability.trial import Trial
from tests.reliability.waits import Waits
from tests.reliability.wire import answer_of

MEANWHILE = "calls while the purge was running"
BACK = "calls with a key that had expired"
LONGEST: Final = 1.0
"""Seconds that a caller may wait for a lock of a purge: a batch takes well under one."""


class Calls:
    """New keys, those that expire in some minutes, and those that have expired: one after the other, again and again."""

    def __init__(self, trial: Trial, order: Any, soon: int, back: int, *, timed: bool) -> None:
        self._trial, self._order, self._soon, self._back, self._timed = trial, order, soon, back, timed
        self.tolds: list[Told] = []
        self._at_work: list[None] = []
        self._stretches: list[tuple[float, float]] = []
        self._before: list[float] = []
        self._under: list[tuple[float, float]] = []

    def expired(self, callers: int) -> list[str]:
        """The keys that must have expired when they are asked for, each once."""
        phases = ("before", "under") if self._timed else ("under",)
        return [
            f"back-{phase}-{caller}-{number}"
            for phase in phases
            for caller in range(callers)
            for number in range(self._back)
        ]

    def _call(self, key: str) -> tuple[float, float]:
        begun = time.perf_counter()
        answer = answer_of(self._order.outcome, key)
        ended = time.perf_counter()
        self.tolds.append(told(key, answer))
        return begun, ended

    def before(self, caller: int) -> None:
        """Call so often as there are expired keys for it."""
        for number in range(self._back):
            for key in (
                f"new-before-{caller}-{number}",
                f"soon-{number % self._soon}",
                f"back-before-{caller}-{number}",
            ):
                begun, ended = self._call(key)
                self._before.append(ended - begun)

    def under(self, caller: int, over: threading.Event) -> None:
        """Call until it is over, and some times at least."""
        count = used = 0
        while not over.is_set() or count < 20:
            count += 1
            key = f"new-{caller}-{count}" if count % 3 else f"soon-{count % self._soon}"
            is_like_before = used < self._back  # afterwards a third kind is missing
            # Where it is timed they are for the time in which they can meet the purge.
            if count % 3 == 1 and is_like_before and (self._at_work or not self._timed):
                key, used = f"back-under-{caller}-{used}", used + 1
                self._trial.hits[BACK] += 1
            times = self._call(key)
            self._trial.hits[MEANWHILE] += 1
            if is_like_before:
                self._under.append(times)

    def purged(self, purge: Callable[[], PurgeReport]) -> PurgeReport:
        """Purge, and keep in mind from when to when it deleted."""
        self._at_work.append(None)
        begun = time.perf_counter()
        try:
            report = purge()
        finally:
            self._at_work.pop()
        if report.deleted:
            self._stretches.append((begun, time.perf_counter()))
        return report

    def measured(self, waits: Waits) -> None:
        """Write down what was measured; broken is what the database itself says of a wait, and no wall clock's word."""
        under = [
            ended - begun
            for begun, ended in self._under
            if any(begun < until and since < ended for since, until in self._stretches)
        ]
        before, meanwhile = _ninety_ninth(self._before), _ninety_ninth(under)
        self._trial.figures |= {
            "calls that were timed before any purge": len(self._before),
            "99th percentile of them, µs": before,
            "calls that were timed while a purge deleted": len(under),
            "99th percentile of these, µs": meanwhile,
            "in percent of the one before": round(100 * meanwhile / before),
            "the longest of these, µs": round(1e6 * max(under)),
            "looks at who waits": waits.looks,
            "waits of a caller for a purge that were seen": len(waits.seen),
            "the longest of them, ms": round(1e3 * waits.longest),
        }
        what = f"a caller waited {waits.longest:.1f} s and longer for a lock of a purge"
        self._trial.holds("I9", waits.longest <= LONGEST, what)


def _ninety_ninth(seconds: list[float]) -> int:
    """Microseconds."""
    return round(1e6 * statistics.quantiles(seconds, n=100)[98])
