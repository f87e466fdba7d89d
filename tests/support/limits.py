"""A time limit, as a worker's signal handler raises it in the middle of whatever runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.crowd import Beside
from tests.support.database import Database


class TimeLimit(Exception):
    """What a signal handler raises, as Celery's does when a task's time is over."""


@contextmanager
def interrupting(db: Database) -> Iterator[None]:
    """Have a signal handler raise TimeLimit here once somebody waits for a lock."""

    def ring() -> None:
        db.await_waiting(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def handler(*_: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    bell = Beside(ring)
    try:
        yield
    finally:
        bell.result()
        signal.signal(signal.SIGUSR1, before)
