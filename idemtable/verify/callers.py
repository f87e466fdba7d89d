"""Threads that call, over connections that are known: all of both end, also when somebody interrupts."""

from __future__ import annotations

import logging
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from ..dialects.words import hang_up, wire
from .race import Answer, Mark, Race

_TOO_LONG: Final = 60.0
"""Seconds after which a caller counts as one that never comes back: twice the time that a call may wait for another."""
_SOON: Final = 5.0
"""Seconds that threads have to end after their connections were cut."""


_LOGGED_AS: Final = "idemtable_verify"


class Interrupted(BaseException):
    """Raised inside a function when the run is over: no Exception, or a call would take it for an answer."""


class Callers:
    """The threads and connections of a run.

    Args:
        url: of the database.
        connect_args: for the driver.
        count: how many call at once.

    Attributes:
        engine: as an application's; statements travel in packets where the driver can.
        listened: the same pool, with somebody who listens to each statement, so that they travel one by one.
    """

    def __init__(self, url: sa.URL, connect_args: Mapping[str, Any], count: int) -> None:
        size = {"poolclass": sa.QueuePool, "pool_size": count, "max_overflow": 0, "pool_timeout": _TOO_LONG}
        name = {"pool_logging_name": _LOGGED_AS}
        self.engine = sa.create_engine(url, connect_args=dict(connect_args), **size, **name)
        # A pool logs the traceback of each dead connection that it is given back. Here they are what was asked for.
        logger = logging.getLogger(f"sqlalchemy.pool.impl.QueuePool.{_LOGGED_AS}")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        self.listened = self.engine.execution_options()
        event.listen(self.listened, "after_cursor_execute", _nothing)
        event.listen(self.engine, "connect", self._opened)
        event.listen(self.engine, "close", self._closed)
        self.connect_args = connect_args
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._open: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._processes: list[subprocess.Popen[str]] = []

    def _opened(self, connection: Any, record: Any) -> None:
        with self._lock:
            self._open.append(connection)

    def _closed(self, connection: Any, record: Any) -> None:
        with self._lock, suppress(ValueError):
            self._open.remove(connection)

    # --- at work ----------------------------------------------------------------------------------------------------------

    def together(self, race: Race, calls: Sequence[Callable[[], Any]], *, announced: bool = True) -> None:
        """Make calls that begin together, one in each lane of a race, and write down what each gives.

        Each returns an `Outcome`. One that does not come back is broken off, and speaks against the race.

        Args:
            race: where it is written down.
            calls: one for each lane.
            announced: whether to write down that they begin; if not they do, when it comes to that.
        """
        ready = threading.Barrier(len(calls))

        def one(lane: int) -> None:
            try:
                ready.wait(_TOO_LONG)
                if announced:
                    race.see(lane, Mark.CALLS)
                outcome = calls[lane]()
            except Interrupted:
                return
            except BaseException as error:
                race.see(lane, Mark.FAILED, type(error).__name__)
                race.answers[lane] = Answer(error=error)
            else:
                race.see(lane, Mark.REPLAYED if outcome.replayed else Mark.RAN)
                race.answers[lane] = Answer(outcome.value, outcome.replayed, outcome.attempts)

        try:
            threads = [self.begun(lambda lane=lane: one(lane)) for lane in range(len(calls))]  # type: ignore[misc]
        except BaseException:
            ready.abort()  # some wait there for those that will not come
            raise
        if not self.joined(threads, _TOO_LONG):
            race.broken.append(f"callers did not come back within {_TOO_LONG:.0f} seconds")
            self._cut()
            self.joined(threads, _SOON)

    def begun(self, work: Callable[[], object]) -> threading.Thread:
        """Start a thread that is known when the run ends."""
        thread = threading.Thread(target=work, name="idemtable-verify", daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()
        return thread

    @contextmanager
    def process(self, command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
        """Have a process that is talked to by pipes, and is gone at the end."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self._processes.append(process)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
            self._processes.remove(process)

    def joined(self, threads: Sequence[threading.Thread], seconds: float) -> bool:
        """Wait for threads; say whether all have ended."""
        until = time.monotonic() + seconds
        for thread in threads:
            if thread.ident is not None:  # an interruption may have come before it was started
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def pause(self, seconds: float) -> None:
        """Sleep inside a function.

        Raises:
            Interrupted: the run is over.
        """
        if self.over.wait(seconds):
            raise Interrupted

    def wait_for(self, true: Callable[[], object], seconds: float = _SOON) -> bool:
        """Wait inside a function until something is so, and no longer than so many seconds; say whether it is.

        Raises:
            Interrupted: the run is over.
        """
        until = time.monotonic() + seconds
        while not true():
            if time.monotonic() > until:
                return False
            self.pause(0.001)
        return True

    # --- the end ----------------------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """End every thread and every connection; say whether they have ended."""
        self.over.set()
        for process in list(self._processes):
            process.kill()
        if not self.joined(self._threads, 0.5):
            self._cut()
        ended = self.joined(self._threads, 2 * _SOON)
        self.engine.dispose()
        return ended and not self._open

    def _cut(self) -> None:
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            driver = getattr(connection, "driver_connection", connection)
            if isinstance(driver, sqlite3.Connection):
                with suppress(sqlite3.Error):
                    driver.interrupt()
            elif (line := wire(driver)) is not None:
                with suppress(OSError):
                    hang_up(line, socket.SHUT_RDWR)


def _nothing(*statement: Any) -> None:
    """Listen, and that is all."""
