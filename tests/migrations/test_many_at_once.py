"""Many that upgrade at once: one does the work, the others wait and find it done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from idemtable import upgrade as steps
from idemtable.errors import SchemaError
from tests.support.forked import FORKS
from tests.support.migrations import as_it_should_be, tables, upgrade_at_the_barrier


def test_eight_processes_upgrading_at_once_never_fail(database_url: str, engine: sa.Engine) -> None:
    barrier, results = FORKS.Barrier(8), FORKS.Queue()
    workers = [FORKS.Process(target=upgrade_at_the_barrier, args=(database_url, barrier, results)) for _ in range(8)]
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
