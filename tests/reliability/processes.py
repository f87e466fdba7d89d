"""Processes of several threads each, which all call with one key at the same moment."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from typing import Any

from idemtable import IdemTable
from tests.reliability.checker import Told, told
from tests.reliability.worker import WAIT, engine_of
from tests.support import PATIENCE
from tests.support.crowd import crowd
from tests.support.database import Database, effect
from tests.support.forked import FORKS, Forked


def call_together(url: str, backend: str, threads: int, barrier: Any, leave: Any) -> None:
    """For each key that comes by stdin: call when all threads of all processes are there, and say what they were told."""
    idem = IdemTable(engine_of(url, backend, pool_size=threads))

    @idem.transactional("herd", key="key", wait=WAIT)
    def order(session: Any, key: str) -> dict[str, Any]:
        number = effect(session, key)
        leave.wait(PATIENCE)
        return {"id": number, "key": key}

    def ask(key: str) -> list[Told]:
        def call(_: int) -> Any:
            barrier.wait(PATIENCE)
            return order.outcome(key)

        return [told(key, answer) for answer in crowd(threads, call)]

    for line in sys.stdin:
        print(json.dumps([asdict(one) for one in ask(line.strip())]), flush=True)


class Processes:
    """The processes, as whoever started them speaks to them."""

    def __init__(self, running: list[Forked], leave: Any) -> None:
        self._running, self._leave = running, leave

    def ask(self, key: str, watch: Callable[[], None]) -> list[Told]:
        """Let all call with a key; whoever is at work stays so until `watch` has come back."""
        self._leave.clear()
        for process in self._running:
            process.stdin.write(f"{key}\n")
        try:
            watch()
        finally:
            self._leave.set()
        return [one for process in self._running for one in _heard(process)]


@contextmanager
def processes(db: Database, count: int, threads: int) -> Iterator[Processes]:
    """So many, of so many threads each, on a database; at the end all are over."""
    url = db.url.render_as_string(hide_password=False)
    barrier, leave = FORKS.Barrier(count * threads), FORKS.Event()
    with ExitStack() as stack:
        running = [
            stack.enter_context(closing(Forked(call_together, url, db.backend, threads, barrier, leave)))
            for _ in range(count)
        ]
        yield Processes(running, leave)


def _heard(process: Forked) -> list[Told]:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return [Told(**facts) for facts in json.loads(line)]
