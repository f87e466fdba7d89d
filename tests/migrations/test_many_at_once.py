"""Many that upgrade at once: one does the work, the others wait and find it done."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import upgrade as steps
from idemtable.errors import SchemaError
from tests.support.migrations import as_it_should_be, tables


def upgrade_at_the_barrier(url: str, barrier: Any, results: Any) -> None:
    try:
        barrier.wait(60)
        results.put(steps.upgrade(url))
    except BaseException as error:
        results.put(repr(error))


def test_eight_processes_upgrading_at_once_never_fail(database_url: str, engine: sa.Engine) -> None:
    # Forked from a process that has imported what they need: eight imports would take longer than eight upgrades.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    barrier, results = forks.Barrier(8), forks.Queue()
    workers = [forks.Process(target=upgrade_at_the_barrier, args=(database_url, barrier, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=90) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert sorted(outcomes, key=str) == [*[()] * 7, (1,)], outcomes
    as_it_should_be(engine)


def test_eight_threads_upgrading_at_once_never_fail(engine: sa.Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = [future.result() for future in [pool.submit(steps.upgrade, engine) for _ in range(8)]]
    assert sorted(outcomes) == [*[()] * 7, (1,)]
    as_it_should_be(engine)


def test_whoever_comes_second_waits_and_then_sees_the_work_done(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "WAIT", 1)
    with engine.connect() as holder, steps.locked(holder):
        with pytest.raises((sa.exc.OperationalError, SchemaError)):
            steps.upgrade(engine)
        assert tables(engine) == set()
    assert steps.upgrade(engine) == (1,)


def test_nothing_to_do_takes_no_lock(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps.upgrade(engine)
    monkeypatch.setattr(steps, "WAIT", 1)
    with engine.connect() as holder, steps.locked(holder):
        assert steps.upgrade(engine) == ()
