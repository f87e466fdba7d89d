"""E10: a caller stands still at each step for longer than the server waits for it, and goes on when another has the key."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa

from idemtable import InProgressError, LostClaimError
from idemtable.claim import steps
from idemtable.claim.steps import Moment, Step
from tests.reliability import worker
from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.clocks import JUMPED, jump
from tests.reliability.trial import Trial
from tests.reliability.wire import answer_of
from tests.reliability.worker import STOP, WAIT
from tests.support import PATIENCE
from tests.support.crowd import Beside, until
from tests.support.database import effect
from tests.support.forked import Forked

PAUSED = "callers who stood still while another one had the key"
ENDED = "transactions that the server had ended meanwhile"
STOPPED = "processes stopped with SIGSTOP"
_IMPATIENT = {
    "postgresql": "SET idle_in_transaction_session_timeout = 200",
    "mariadb": "SET SESSION idle_transaction_timeout = 1",
    "mysql": "SET SESSION wait_timeout = 1",
}
HELD = (Step.ENTERED, Step.CLAIMED, Step.RUNNING, Step.RAN, Step.STORED)
"""While a call stands here it has the key."""


def pause(trial: Trial) -> None:
    trial.needs(PAUSED, 2, 10)
    trial.needs(ENDED, 1, 5)
    trial.needs(JUMPED, 2, 10)
    plain = trial.place.path == "plain"
    for number in range(trial.size(1, 5)):
        _broken_out(trial, number)
        if trial.mutant is not None and trial.wrong:
            return
        jump(trial, number)
        _idle(trial, number, None)
        # Whoever is listened to goes statement by statement: the fused path can be paused in the function alone.
        for step in HELD if plain and trial.whole else ():
            _idle(trial, number, step)
    if trial.whole:
        trial.needs(STOPPED, 0, 10 if plain else 0)
        for number in range(2 if plain else 0):
            for step in HELD:
                _stopped(trial, f"stopped-{step}-{number}", step)
    check_at_rest(trial)


def _broken_out(trial: Trial, number: int) -> None:
    """The function's transaction ends under it, and it stands still: what it says afterwards is nobody's."""
    db, inside, leave = trial.db, threading.Event(), threading.Event()
    runs: list[str] = []

    @db.table().transactional("pause", key="key", wait=WAIT, share_scope=True)
    def order(session: Any, key: str) -> int:
        runs.append(key)
        if len(runs) == 1:
            session.execute(sa.text("ROLLBACK"))
            inside.set()
            assert leave.wait(PATIENCE)
        return effect(session, key)

    key = f"broken-{number}"
    late = Beside(lambda: answer_of(order.outcome, key))
    assert inside.wait(PATIENCE)
    answers = [answer_of(order.outcome, key)]
    leave.set()
    refused = late.result()
    trial.tried += 2
    trial.hits[PAUSED] += 1
    trial.holds("I11", isinstance(refused, LostClaimError), f"{key}: who came late was told {refused!r}")
    answers += [] if isinstance(refused, Exception) else [refused]
    answers.append(answer_of(order.outcome, key))
    check(trial, [told(key, answer) for answer in answers])


def _idle(trial: Trial, number: int, step: Step | None) -> None:
    """The server ends the transaction of a caller who stands still; another one comes, and then the first goes on."""
    db, inside, leave = trial.db, threading.Event(), threading.Event()
    key = f"idle-{number}-{step}"
    stood: list[int] = []
    runs: list[int] = []

    def stand(connection: Any = None) -> None:
        if not stood:
            stood.append(1)
            inside.set()
            assert leave.wait(PATIENCE)

    def listen(moment: Moment) -> None:
        if moment.step is step and moment.request.key == key:
            stand()

    with db.other_engine() as engine:

        @sa.event.listens_for(engine, "connect")
        def impatient(raw: Any, record: Any) -> None:
            cursor = raw.cursor()
            cursor.execute(_IMPATIENT[db.kind])
            cursor.close()
            raw.commit()

        @db.table(engine).transactional("pause", key="key", wait=WAIT, share_scope=True)
        def order(session: Any, key: str) -> int:
            made = effect(session, key)
            runs.append(made)
            if step is None:
                stand()
            return made

        @db.table().transactional("pause", key="key", wait=WAIT, share_scope=True)
        def heir(session: Any, key: str) -> int:
            return effect(session, key)

        with steps.listening(listen) if step is not None else nullcontext():
            late = Beside(lambda: answer_of(order.outcome, key))
            assert inside.wait(PATIENCE)
            first = answer_of(heir.outcome, key)  # waits until the server has given the other one up
            leave.set()
            second = late.result()
        trial.tried += 2
        trial.hits[PAUSED] += 1
        trial.hits[ENDED] += not isinstance(second, Exception) and second.attempts > 1
        check(trial, [told(key, answer) for answer in (first, second, answer_of(heir.outcome, key))])
        check_at_rest(trial, engine=engine)


def _stopped(trial: Trial, key: str, step: Step) -> None:
    """A process is stopped at a step: another one waits for it, gets nothing, and has its answer when it goes on."""
    db = trial.db
    url = db.url.render_as_string(hide_password=False)
    holder = Forked(worker.stop_at, url, db.backend, key, str(step), STOP)
    try:
        trial.hits[STOPPED] += holder.stdout.readline().strip() == "there"

        @db.table().transactional("worker", key="key", wait=WAIT, share_scope=True)
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        waiter = Beside(lambda: answer_of(order.outcome, key))
        until(lambda: db.waiting() or waiter.over, "nobody waits for who was stopped")
        trial.holds("I1", not waiter.over, f"{key}: {waiter.over and waiter.result()!r} while another one has the key")
        while not select.select([holder.stdout], [], [], 0.05)[0]:
            # One that comes before it has stopped is lost, and nobody would send another.
            os.kill(holder.pid, signal.SIGCONT)
        said = json.loads(holder.stdout.readline())
        got = waiter.result()
        trial.tried += 2
        trial.holds("I11", not isinstance(got, InProgressError), f"{key}: {got!r}")
        check(trial, [Told(key, said.get("value"), said.get("replayed", False), said.get("error", "")), told(key, got)])
    finally:
        holder.close()
