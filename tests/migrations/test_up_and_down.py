"""The table comes up, goes down and comes up again, by every way there is."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from idemtable import IdemTable, SchemaError, doctor, schema
from idemtable import upgrade as steps
from tests.support.migrations import (
    ASYNC,
    SYNC,
    alembic,
    as_it_should_be,
    differences,
    drivers,
    execute_script,
    kind,
    tables,
)


def test_up_down_and_up_again(engine: sa.Engine) -> None:
    assert steps.upgrade(engine) == (1,)
    as_it_should_be(engine)
    assert steps.upgrade(engine) == ()
    assert steps.downgrade(engine) == (1,)
    assert tables(engine) == set()
    assert steps.downgrade(engine) == ()
    assert steps.upgrade(engine, to=1) == (1,)
    as_it_should_be(engine)


@pytest.mark.parametrize("names", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_url_of_any_driver_will_do(database_url: str, names: dict[str, list[str]], engine: sa.Engine) -> None:
    for url in drivers(database_url, names):
        assert steps.upgrade(url) == (1,)
        assert steps.check(url) == []
        as_it_should_be(engine)
        assert steps.downgrade(url) == (1,)


def test_in_a_running_loop_an_async_engine_is_refused_with_the_cure_and_no_coroutine_is_left() -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    async def ask() -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        for verb in (steps.upgrade, steps.downgrade, steps.check, doctor.examine):
            with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
                verb(engine)
        await engine.dispose()

    asyncio.run(ask())
    gc.collect()  # what was never awaited warns when it goes, and a warning is an error here


def test_an_async_engine_keeps_the_pool_of_its_own_event_loop(database_url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    async def main() -> None:
        application = create_async_engine(drivers(database_url, ASYNC)[0])
        async with application.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
        assert await asyncio.to_thread(steps.upgrade, application) == (1,)
        async with application.connect() as connection:
            await connection.run_sync(schema.require)
        await application.dispose()

    asyncio.run(main())


def test_other_names_live_beside_the_default_ones(engine: sa.Engine) -> None:
    steps.upgrade(engine)
    assert steps.upgrade(engine, table="inbox") == (1,)
    assert tables(engine) == {"idemtable", "idemtable_version", "inbox", "inbox_version"}
    both = sa.MetaData()
    schema.build(both)
    schema.build(both, "inbox")
    assert differences(engine, both) == []
    assert steps.check(engine, table="inbox") == []
    steps.downgrade(engine, table="inbox")
    as_it_should_be(engine)


def test_a_schema_is_created_when_asked(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":  # has attached files instead
        for call in (
            lambda: steps.upgrade(engine, schema="idem", create_schema=True),
            lambda: steps.upgrade(engine, schema="idem"),
            lambda: steps.sql("sqlite", schema="idem", create_schema=True),
            IdemTable(engine, schema="idem").create_all,
        ):
            with pytest.raises(ValueError, match=r"schema idem: its schemas are files .* Leave the schema out"):
                call()
        assert tables(engine) == set()
        return
    name = f"idem_{uuid4().hex[:8]}"
    problems = steps.check(engine, schema=name)
    assert f"the table {name}.idemtable is missing" in problems[0]
    assert f"idemtable db upgrade --schema {name}" in problems[-1]
    if engine.dialect.name == "postgresql":
        for call in (lambda: steps.upgrade(engine, schema=name), IdemTable(engine, schema=name).create_all):
            with pytest.raises(SchemaError, match=f"the schema {name} is missing.* --schema {name} --create-schema"):
                call()
    try:
        assert steps.upgrade(engine, schema=name, create_schema=True) == (1,)
        assert steps.upgrade(engine, schema=name, create_schema=True) == ()
        assert steps.check(engine, schema=name) == []
        metadata = sa.MetaData()
        schema.build(metadata, schema=name)
        only = {"include_schemas": True, "include_name": lambda n, k, _: k != "schema" or n == name}
        assert differences(engine, metadata, **only) == []
        assert steps.downgrade(engine, schema=name) == (1,)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name}")


def test_an_engine_at_any_isolation_level_will_do(database_url: str) -> None:
    levels = ["SERIALIZABLE", "AUTOCOMMIT"] + (["REPEATABLE READ"] if kind(database_url) != "sqlite" else [])
    for level in levels:
        engine = sa.create_engine(database_url, isolation_level=level)
        assert steps.upgrade(engine) == (1,), level
        as_it_should_be(engine)
        assert steps.downgrade(engine) == (1,)
        engine.dispose()


def test_a_sqlite_engine_that_begins_explicitly_will_do(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'test.db'}")
    sa.event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    assert steps.upgrade(engine) == (1,)
    as_it_should_be(engine)
    engine.dispose()


def test_autogenerate_sees_no_difference(database_url: str, engine: sa.Engine) -> None:
    ways: list[Callable[[], object]] = [
        lambda: steps.upgrade(engine),
        lambda: execute_script(engine, steps.sql(engine.dialect.name)),
        lambda: alembic(database_url, "upgrade", "head"),
        lambda: schema.metadata.create_all(engine),
    ]
    for way in ways:
        way()
        assert tables(engine) == {"idemtable", "idemtable_version"}
        for url in drivers(database_url, SYNC):
            application = sa.create_engine(url, poolclass=sa.NullPool)
            other = sa.MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(column_0_label)s"})
            assert differences(application, [other, schema.metadata]) == []
        steps.upgrade(engine)
        steps.downgrade(engine)
