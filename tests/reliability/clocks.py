"""E10: the caller's clock jumps by an hour while it has a key, forwards and back; keys expire by the database's."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final
from unittest import mock

from tests.reliability.checker import Told, check, told
from tests.reliability.trial import Trial
from tests.reliability.wire import answer_of
from tests.reliability.worker import WAIT
from tests.support import PATIENCE
from tests.support.crowd import Beside, until
from tests.support.database import effect

JUMPED = "clocks that jumped by an hour while their caller had a key"
HOUR: Final = timedelta(hours=1)
TTL: Final = timedelta(minutes=30)
"""Less than the jump: a clock that is asked says that the key has expired, or will be good for an hour too long."""
SLACK: Final = timedelta(minutes=5)
"""Longer than any of it takes."""


@contextmanager
def jumped(by: timedelta) -> Iterator[None]:
    """Have all that asks for the time be told another one; how long something takes goes on as before."""
    seconds, time_ns = time.time, time.time_ns

    class Jumped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    with ExitStack() as stack:
        later = {
            "time": lambda: seconds() + by.total_seconds(),
            "time_ns": lambda: time_ns() + round(by.total_seconds() * 1e9),
        }
        stack.enter_context(mock.patch.multiple(time, **later))
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == "idemtable" and vars(module).get("datetime") is datetime:
                stack.enter_context(mock.patch.object(module, "datetime", Jumped))
        yield


def jump(trial: Trial, number: int) -> None:
    for by in (HOUR, -HOUR):
        _jump(trial, f"jump-{number}-{by.total_seconds():.0f}", by)


def _jump(trial: Trial, key: str, by: timedelta) -> None:
    db, inside, leave = trial.db, threading.Event(), threading.Event()
    idem = db.table(ttl=TTL)

    @idem.transactional("pause", key="key", wait=WAIT, share_scope=True)
    def order(session: Any, key: str) -> int:
        made = effect(session, key)
        if not inside.is_set():
            inside.set()
            assert leave.wait(PATIENCE)
        return made

    calls: list[Told] = []

    def called(name: str) -> None:
        calls.append(told(name, answer_of(order.outcome, name)))

    first = Beside(lambda: called(key))
    assert inside.wait(PATIENCE)
    with jumped(by):
        assert abs(time.time() - datetime.now(UTC).timestamp()) > HOUR.total_seconds() / 2
        trial.hits[JUMPED] += 1
        second = Beside(lambda: called(key))
        until(lambda: db.waiting() or second.over, "nobody waits for who has the key")
        trial.holds("I1", not second.over, f"{key}: there is an answer while another one has the key")
        leave.set()
        first.result()
        second.result()
        called(f"{key}-new")
        deleted = idem.purge().deleted
        trial.holds("I9", deleted == 0, f"{key}: {deleted} rows were deleted, and none had expired")
        called(key)
    called(key)
    called(f"{key}-new")
    trial.tried += len(calls)
    check(trial, calls)
    for row in db.rows():
        if str(row.key).startswith(key):
            until_then = row.expires_at.replace(tzinfo=UTC) - datetime.now(UTC)
            trial.holds("I9", abs(until_then - TTL) < SLACK, f"{row.key} expires in {until_then}, and not in {TTL}")
