"""E3: the line is cut at each chunk of each kind of call, both ways and in several manners; then the call goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any
from unittest.mock import patch

import tenacity

from idemtable import FingerprintMismatchError, Status
from idemtable.claim import retry
from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.trial import Trial
from tests.support.crowd import WAIT, until
from tests.support.database import effect
from tests.support.lines import Line, through_a_proxy
from tests.support.proxy import Manner, Way

CUTS = "cuts"
SETTLED = "cuts after COMMIT had been done, and before its answer came"
LONG = timedelta(days=1)


def answer_of(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except Exception as error:
        return error


class Cutting:
    """The calls that are cut."""

    def __init__(self, trial: Trial, line: Line) -> None:
        self.trial, self.line, self.db = trial, line, trial.db
        self.runs: list[str] = []
        self.tolds: list[Told] = []

        @line.idem.transactional("wire", key="key", wait=WAIT)
        def order(session: Any, key: str, amount: int = 1) -> dict[str, int]:
            self.runs.append(key)
            return {"id": effect(session, key, amount)}

        self.order = order

    def everywhere(self, name: str, way: Way, manner: Manner, call: Callable[[str], None], stored: bool) -> None:
        """Cut at the first chunk of a call, at the second of the next one, until a call has no more."""
        for number in count(1):
            key = f"{name}-{way.name[3:]}-{manner.name}-{number}"
            if stored:
                self.tolds.append(told(key, answer_of(self.order.outcome, key)))
            cut = self.line.proxy.cut_at(way, number, manner)
            call(key)
            self.line.proxy.let_pass()
            self.trial.tried += 1
            if not cut.hit.is_set():
                return
            self.trial.hits[CUTS] += 1

    def first(self, key: str) -> None:
        answer = answer_of(self.order.outcome, key)
        if not isinstance(answer, Exception) and answer.attempts > 1 and self.runs.count(key) == 1:
            self.trial.hits[SETTLED] += not answer.replayed
        self.line.proxy.let_pass()
        self.tolds += [told(key, answer), told(key, answer_of(self.order.outcome, key))]

    def replay(self, key: str) -> None:
        self.tolds.append(told(key, answer_of(self.order.outcome, key)))
        self.trial.holds("I1", self.runs.count(key) == 1, f"{key} ran again")

    def mismatch(self, key: str) -> None:
        before = [row for row in self.db.rows() if row.key == key]
        answer = answer_of(self.order.outcome, key, 2)
        self.trial.holds("I10", isinstance(answer, FingerprintMismatchError), f"{key}: {answer!r}")
        self.trial.holds("I10", [row for row in self.db.rows() if row.key == key] == before, f"{key}: the row changed")
        self.trial.holds("I10", self.runs.count(key) == 1, f"{key} ran for another payload")

    def purge(self, key: str) -> None:
        answer = answer_of(self.line.idem.purge)
        self.line.proxy.let_pass()
        self.trial.holds("I9", not isinstance(answer, Exception), f"purge: {answer!r}")


def _purged(trial: Trial, cutting: Cutting, way: Way, manner: Manner) -> None:
    """Of two keys one has expired when the purge comes, whose line is cut at each chunk of it."""
    trial.db.sweep()
    order = cutting.order
    for number in range(30):
        order(f"old-{number}")
    trial.db.expire()
    live = {f"live-{number}" for number in range(5)}
    for key in live:
        order(key)
    cutting.everywhere("purge", way, manner, cutting.purge, stored=False)
    trial.db.execute("DELETE FROM idemtable WHERE scope = 'idemtable.purge'")  # the lease, where its end was cut
    until(lambda: not cutting.line.idem.purge().busy, "the purge stays busy")
    left = {row.key for row in trial.db.rows() if row.status == Status.COMPLETED.code}
    trial.holds("I9", left == live, f"a purge that was cut {manner.value} leaves {sorted(left ^ live)}")


def cut_everywhere(trial: Trial) -> None:
    whole = trial.whole and trial.mutant is None
    trial.needs(CUTS, 6, 100)
    trial.needs(SETTLED, 1, 3)
    manners = list(Manner) if whole else [Manner.BEFORE, Manner.HALF] if trial.whole else [Manner.BEFORE]
    with (
        patch.object(retry, "_FAR", tenacity.wait_none()),  # what is tried is not how long the pause is
        through_a_proxy(trial.db) as line,
    ):
        cutting = Cutting(trial, line)
        cutting.order("warm")
        for manner in manners:
            for way in Way:
                cutting.everywhere("first", way, manner, cutting.first, stored=False)
                if trial.whole or trial.mutant is None:
                    cutting.everywhere("replay", way, manner, cutting.replay, stored=True)
                    cutting.everywhere("mismatch", way, manner, cutting.mismatch, stored=True)
        check(trial, cutting.tolds)
        if trial.mutant is None:
            for manner in manners:
                for way in Way:
                    _purged(trial, cutting, way, manner)
        check_at_rest(trial, engine=line.engine)
