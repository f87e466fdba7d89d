"""The worker processes: started, given orders, one killed and replaced.

Pipes and files only. A queue or a lock of ``multiprocessing`` that a killed process holds would stop everybody else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Final, cast

import sqlalchemy as sa

from .worker import URL

_HELD: Final = 1.5
"""Seconds that a payment is held before the kill: long enough for others to be told that it is in progress, also on a
database that counts whole seconds."""
_TOO_LONG: Final = 300.0
"""Seconds after which a run is given up: many times what a slow machine needs, and a hang must not last for ever."""


class CrewError(Exception):
    """A worker ended that should not have."""


class Crew:
    """Eight clients, or as many as you like."""

    def __init__(self, folder: Path, url: sa.URL, workers: int, protected: bool) -> None:
        self._folder, self._workers = folder, workers
        self._arguments = (str(workers), "protected" if protected else "unprotected")
        self._environment = {**os.environ, URL: url.render_as_string(hide_password=False)}
        self.victim: Final = workers // 2
        self.killed: str | None = None
        """The key of the payment that was open when the worker was killed."""

    def __enter__(self) -> Crew:
        self._watchdog = threading.Timer(_TOO_LONG, self._end)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._processes = [self._started(number) for number in range(self._workers)]
        try:
            for number in range(self._workers):
                self._hear(number, "ready")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _started(self, number: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "idemtable.demo.worker", str(self._folder), str(number), *self._arguments]
        with (self._folder / f"errors-{number}.txt").open("a") as errors:
            return subprocess.Popen(  # noqa: S603 - our own module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=self._environment
            )

    def work(self, day: int, *, killing: bool = False) -> str | None:
        """Have a day's requests sent, and one worker killed inside a payment; give the key of that payment."""
        for number in range(self._workers):
            self._tell(number, f"day {day} hold" if killing and number == self.victim else f"day {day}")
        killed = self._kill_and_restart(day) if killing else None
        for number in range(self._workers):
            self._hear(number, "done")
        return killed

    def _kill_and_restart(self, day: int) -> str | None:
        said = self._hear(self.victim, "holding", "done")
        if said == "done":  # it found every payment made already
            self._tell(self.victim, f"day {day}")
            return None
        self.killed = said.split()[1]
        # The others must meet the held payment before its worker dies, or nobody would be told that it is in progress. They
        # wait inside the database, and say nothing before they have waited long enough.
        time.sleep(_HELD)
        self._processes[self.victim].kill()  # SIGKILL: no handler, no rollback, no goodbye
        self._processes[self.victim].communicate()
        self._processes[self.victim] = self._started(self.victim)
        self._hear(self.victim, "ready")
        self._tell(self.victim, f"day {day}")
        return self.killed

    def _tell(self, number: int, order: str) -> None:
        stdin = cast("IO[str]", self._processes[number].stdin)
        try:
            stdin.write(f"{order}\n")
            stdin.flush()
        except BrokenPipeError:
            raise CrewError(self._last_words(number)) from None

    def _hear(self, number: int, *expected: str) -> str:
        said = cast("IO[str]", self._processes[number].stdout).readline().strip()
        if said.partition(" ")[0] not in expected:
            raise CrewError(self._last_words(number))
        return said

    def _last_words(self, number: int) -> str:
        words = (self._folder / f"errors-{number}.txt").read_text("utf-8", "replace").strip().splitlines()
        return f"worker {number + 1} ended: {words[-1] if words else 'it said nothing'}"
