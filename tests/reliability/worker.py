"""A process that calls, and says in a file of its own what it was told: it may be killed at any moment.

A line is written before a call and one after it, each by one write to a file that is opened for appending.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from idemtable import IdemTable
from idemtable.claim import steps
from idemtable.claim.steps import Moment
from tests.reliability.checker import Told
from tests.support.database import effect

WAIT = timedelta(seconds=50)
FAILOVER = timedelta(seconds=60)
ONE_CALL = 60
"""Bytes of a log: more than a question takes, less than a question and its answer."""
_SEVERAL = 1 << 16


def engine_of(url: str, backend: str, *, pool_size: int = 1) -> sa.Engine:
    """The engine of a place, in a process that has nothing but its URL."""
    arguments: dict[str, Any] = {}
    if "pymysql" in url:
        arguments = {"ssl_disabled": True, "connect_timeout": 5}
    if "several" in backend:
        arguments["client_flag"] = _SEVERAL
    engine = sa.create_engine(url, connect_args=arguments, pool_size=pool_size)
    if "listened" in backend:
        sa.event.listen(engine, "after_cursor_execute", lambda *_: None)
    return engine


class Log:
    """The file."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, **facts: Any) -> None:
        os.write(self._file, (json.dumps(facts) + "\n").encode())


def end_with_the_test() -> None:
    """Be gone as soon as nobody holds the other end of stdin any more."""
    sys.stdin.read()
    os._exit(1)


def run(url: str, backend: str, path: str, seed: int, keys: int, mutant: str) -> None:
    """Call key after key, the low ones oftener, until somebody removes the file ``go`` beside the log."""
    from tests.reliability.mutants import MUTANTS

    threading.Thread(target=end_with_the_test, daemon=True).start()
    log, chance, go = Log(path), random.Random(seed), Path(path).with_name("go")
    returned: set[str] = set()
    flights = runs = 0
    idem = IdemTable(engine_of(url, backend), failover=FAILOVER, wait=WAIT)

    @idem.transactional("worker", key="key")
    def order(session: Any, key: str) -> int:
        nonlocal flights, runs
        runs += 1
        flights += key in returned  # an attempt before this one had come to its end
        made = effect(session, key)
        returned.add(key)
        return made

    with ExitStack() as stack:
        if mutant:
            stack.enter_context(MUTANTS[mutant].make())
        while go.exists():
            key = f"w{int(keys ** chance.random())}-{chance.randrange(keys)}"
            log(asked=key)
            returned.clear()  # and nothing else that grows: the memory of one that lives for long is looked at
            flights = runs = 0
            try:
                outcome = order.outcome(key)
            except Exception as error:
                log(told=key, error=f"{type(error).__name__}: {error}"[:200])
                continue
            settled = outcome.attempts > 1 and runs < outcome.attempts and not outcome.replayed
            log(
                told=key, value=outcome.value, replayed=outcome.replayed, again=outcome.attempts > 1,
                flight=bool(flights or settled),
            )  # fmt: skip


def stop_at(url: str, backend: str, key: str, step: str, number: int) -> None:
    """Call once, and at a step send a signal to oneself: SIGKILL, or SIGSTOP until somebody says to go on."""
    idem = IdemTable(engine_of(url, backend), wait=WAIT)

    @idem.transactional("worker", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    def signalling(moment: Moment) -> None:
        if moment.step == step and moment.attempt == 1:
            print("there", flush=True)
            os.kill(os.getpid(), number)

    with steps.listening(signalling):
        try:
            outcome = order.outcome(key)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}), flush=True)
        else:
            print(json.dumps({"value": outcome.value, "replayed": outcome.replayed}), flush=True)


def purge(url: str, backend: str, batch: int, batches: int, seconds: float) -> None:
    """Purge, and be killed so many seconds after so many batches; whoever is not says so."""
    count = 0

    # It does so itself: a test that is busy with many threads comes when all is deleted.
    def progress(deleted: int) -> None:
        nonlocal count
        count += 1
        if count == batches:
            threading.Timer(seconds, os.kill, (os.getpid(), KILL)).start()

    IdemTable(engine_of(url, backend)).purge(batch=batch, progress=progress)
    print("over", flush=True)


def read(folder: Path) -> tuple[list[Told], set[str], dict[str, int]]:
    """What all workers have said: what they were told, which keys they asked for, and how often what was seen."""
    tolds: list[Told] = []
    asked: set[str] = set()
    seen = {"again": 0, "flight": 0, "replayed": 0}
    for path in sorted(folder.glob("*.log")):
        for line in path.read_text().splitlines():
            facts = json.loads(line)
            if "asked" in facts:
                asked.add(facts["asked"])
                continue
            tolds.append(Told(facts["told"], facts.get("value"), facts.get("replayed", False), facts.get("error", "")))
            for name in seen:
                seen[name] += bool(facts.get(name))
    return tolds, asked, seen


def wait_for(path: Path, size: int, seconds: float = 30) -> None:
    """Come back when a log has grown to so many bytes."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < deadline, f"{path.name} does not grow"
        time.sleep(0.01)


KILL, STOP = int(signal.SIGKILL), int(signal.SIGSTOP)
