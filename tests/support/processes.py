"""Callers in processes of their own, as a test holds them."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support import PATIENCE, calling_process
from tests.support.database import Database
from tests.support.forked import Forked


class Caller:
    """One process that runs `tests.support.calling_process`, forked from one that has imported it."""

    def __init__(self, db: Database, said: queue.Queue[tuple[Caller, str]]) -> None:
        url = db.url.render_as_string(hide_password=False)
        self.process = Forked(calling_process.run_async if db.is_async else calling_process.run, url)
        self._said = said
        self.errors = ""
        self._threads = [threading.Thread(target=listen, daemon=True) for listen in (self._listen, self._collect)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self._said.put((self, line.strip()))
        self._said.put((self, "gone"))

    def _collect(self) -> None:
        self.errors = self.process.stderr.read()

    def tell(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        self.process.kill()
        for thread in self._threads:
            thread.join(PATIENCE)
        self.process.close()


class Callers:
    """Several of them, and what they say, in the order in which they say it."""

    def __init__(self, db: Database, count: int) -> None:
        self._queue: queue.Queue[tuple[Caller, str]] = queue.Queue()
        self.said: list[tuple[Caller, str]] = []
        self.all = [Caller(db, self._queue) for _ in range(count)]

    def hear(self, word: str, times: int = 1) -> list[Caller]:
        """Wait until a word has been said so often since the start; return who said it."""
        while len(who := [caller for caller, said in self.said if said == word]) < times:
            self._take()
        return who

    def answers(self, count: int) -> list[dict[str, Any]]:
        """Wait for what so many calls got."""
        while len(lines := [said for _, said in self.said if said.startswith("{")]) < count:
            self._take()
        return [json.loads(line) for line in lines]

    def _take(self) -> None:
        caller, said = self._queue.get(timeout=PATIENCE)
        if said == "gone":
            caller._threads[1].join(PATIENCE)
            assert caller.process.code == -9, caller.errors
        self.said.append((caller, said))


@contextmanager
def callers(db: Database, count: int) -> Iterator[Callers]:
    """So many processes, all ready."""
    group = Callers(db, count)
    try:
        group.hear("ready", count)
        yield group
    finally:
        for caller in group.all:
            caller.close()
