"""Many that upgrade at once: one does the work, the others wait and find it done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

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


def ways(engine: sa.Engine) -> list[tuple[sa.Engine, str | None]]:
    """The ways to name the place in which an engine makes its tables: an engine and a schema each."""
    name = {"sqlite": "main", "postgresql": "public"}.get(engine.dialect.name, engine.url.database)
    found = [(engine, None), (engine, name), (engine.execution_options(schema_translate_map={None: name}), None)]
    elsewhere = {
        "postgresql": engine.url.update_query_dict({"options": "-csearch_path=pg_catalog"}),
        "mysql": engine.url.set(database="mysql"),
    }
    if url := elsewhere.get(engine.dialect.name):
        found.append((sa.create_engine(url, poolclass=sa.NullPool), name))
    return found


def test_whoever_names_the_place_otherwise_waits_too(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "WAIT", 1)
    for (held, schema), (other, name) in pairwise([*ways(engine), (engine, None)]):
        with held.connect() as connection, steps.locked(connection, schema=schema):
            with pytest.raises((sa.exc.OperationalError, SchemaError)):
                steps.upgrade(other, schema=name)
            assert tables(engine) == set()
    assert [steps.upgrade(other, schema=name) for other, name in ways(engine)][:2] == [(1,), ()]
    as_it_should_be(engine)


@pytest.mark.parametrize("database_url", ["postgresql18", "mariadb", "mysql"], indirect=True)
def test_whoever_upgrades_another_table_waits_for_nobody(engine: sa.Engine) -> None:
    with engine.connect() as holder, steps.locked(holder):
        assert steps.upgrade(engine, table="other") == (1,)
        assert steps.upgrade(engine, schema="elsewhere", create_schema=True) == (1,)
        assert steps.downgrade(engine, schema="elsewhere") == (1,)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA elsewhere")


def test_nothing_to_do_takes_no_lock(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps.upgrade(engine)
    monkeypatch.setattr(steps, "WAIT", 1)
    with engine.connect() as holder, steps.locked(holder):
        assert steps.upgrade(engine) == ()
