"""Tenants in schemas: ``schema_translate_map`` applies to the key table as to every other table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import SchemaError
from tests.support.database import Database

TENANTS = ("idem_ta", "idem_tb")


@pytest.fixture
def tenants(db: Database, tmp_path: Any) -> Iterator[dict[str, Any]]:
    """An engine for each tenant, whose tables stand in a schema of its own."""
    with db.other_engine() as engine:
        sync = getattr(engine, "sync_engine", engine)
        if db.kind == "sqlite":

            @sa.event.listens_for(sync, "connect")
            def attach(connection: Any, _: Any) -> None:
                for name in TENANTS:
                    connection.execute(f"ATTACH '{tmp_path / name}' AS {name}")

        else:
            for name in TENANTS:
                db.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
        yield {name: engine.execution_options(schema_translate_map={None: name}) for name in TENANTS}
        if db.kind != "sqlite":
            for name in TENANTS:
                db.execute(f"DROP SCHEMA {name}" + (" CASCADE" if db.kind == "postgresql" else ""))


def test_a_key_of_one_tenant_is_not_anothers_and_every_verb_goes_by_the_map(
    db: Database, tenants: dict[str, Any]
) -> None:
    answers = {}
    for name, engine in tenants.items():
        idem = db.table(engine)
        with pytest.raises(SchemaError):
            idem.check_schema()
        idem.create_all()
        idem.check_schema()
        idem.create_all()

        @idem.transactional("order", key="key")
        def order(session: Any, key: str, name: str = name) -> str:
            return f"for {name}"

        answers[name] = order("k"), order.outcome("k").replayed
        assert idem.stats().rows == 1
        assert idem.get("order", "k").key == "k"
        assert [record.key for record in idem.records()] == ["k"]
        assert idem.purge().deleted == 0
    assert answers == {name: (f"for {name}", True) for name in TENANTS}
    assert db.rows() == []
    assert db.table(tenants[TENANTS[0]]).forget("order", "k") is True
    assert [db.table(engine).stats().rows for engine in tenants.values()] == [0, 1]


def test_a_session_that_is_handed_over_brings_its_own_schema(db: Database, tenants: dict[str, Any]) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        return "done"

    for engine in tenants.values():
        db.table(engine).create_all()
        with db.session(engine) as mine:
            assert order.join(mine.session, "k") == "done"
            mine.commit()
    assert [db.table(engine).stats().rows for engine in tenants.values()] == [1, 1]
    assert db.rows() == []


def test_a_call_for_one_tenant_inside_anothers_does_not_join_it(db: Database, tenants: dict[str, Any]) -> None:
    if db.kind == "sqlite":  # one writer for all attached files: the inner one could only wait for the outer one
        return
    first, second = (db.table(engine) for engine in tenants.values())
    first.create_all()
    second.create_all()

    @second.transactional("inner", key="key")
    def inner(session: Any, key: str) -> str:
        return "inner"

    @first.transactional("outer", key="key")
    def outer(session: Any, key: str) -> str:
        inner(key)
        raise LookupError

    with pytest.raises(LookupError):
        outer("k")
    assert (first.stats().rows, second.stats().rows) == (0, 1)


def test_a_batch_goes_by_the_map_of_its_table_and_of_the_session(db: Database, tenants: dict[str, Any]) -> None:
    for engine in tenants.values():
        db.table(engine).create_all()
        for idem in (db.table(engine), db.idem):  # a session that is handed over brings its own schema
            with db.session(engine) as mine:
                assert len(idem.claim_many(mine.session, "batch", ["a", "b"])) == 2
                list(idem.unseen(mine.session, "batch", [{"id": "c"}], key="id"))
                mine.commit()
    assert [db.table(engine).stats().rows for engine in tenants.values()] == [3, 3]
    assert db.rows() == []


def test_tokens_and_machines_go_by_the_map_too(db: Database, tenants: dict[str, Any]) -> None:
    from datetime import timedelta

    idem = db.table(tenants[TENANTS[0]])
    idem.create_all()
    inner = getattr(idem, "inner", idem)
    tokens = inner.tokens("checkout", ttl=timedelta(minutes=1))
    issued = tokens.issue()
    token = issued if db.loop is None else db.loop.run(issued)
    assert idem.stats().rows == 1
    with db.deleting(TENANTS[0]):
        revoked = tokens.revoke(token)
        assert (revoked if db.loop is None else db.loop.run(revoked)) is True
    assert db.rows() == []
