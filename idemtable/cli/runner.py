"""Purging until it is done, or round after round until somebody says stop."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any, Protocol

from ..model import PurgeReport


class Purge(Protocol):
    """One round: deletes what has expired and calls back after each batch."""

    def __call__(self, *, progress: Callable[[int], object]) -> PurgeReport:
        """Run the round."""


class Stop:
    """SIGTERM and SIGINT as a wish that is heard between two batches; the second one ends the program at once."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Stop:
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        # An Event would do for the flag, but setting one inside a handler can find its lock held by the same thread.
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno())
        self._before: dict[int, Any] = {number: signal.signal(number, self._heard) for number in self._SIGNALS}
        return self

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
        signal.set_wakeup_fd(self._wakeup)
        self._ear.close()
        self._mouth.close()

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is over or a signal comes."""
        if not self.asked:
            select.select([self._ear], [], [], max(seconds, 0))


class _AskedToStop(Exception):
    pass


def purge(round_: Purge, stop: Stop, shown: Callable[[int], object]) -> PurgeReport:
    """Run one round, and end it after the batch in which a stop was asked for."""
    began, batches, deleted = time.monotonic(), 0, 0

    def progress(so_far: int) -> None:
        nonlocal batches, deleted
        batches, deleted = batches + 1, so_far
        shown(so_far)
        if stop.asked:
            raise _AskedToStop

    try:
        return round_(progress=progress)
    except _AskedToStop:
        return PurgeReport(deleted, batches, time.monotonic() - began)


def repeat(once: Callable[[], object], every: timedelta, stop: Stop, failed: Callable[[Exception], object]) -> None:
    """Do something at once and then each time a period begins, until a stop is asked for.

    The first time must succeed: a wrong URL should end the program. Later a database may be away for a while.
    """
    once()
    began = time.monotonic()
    while not stop.asked:
        stop.sleep(began + every.total_seconds() - time.monotonic())
        if stop.asked:
            return
        began = time.monotonic()
        try:
            once()
        except Exception as error:
            failed(error)
